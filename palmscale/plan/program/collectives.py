"""Every collective of a compiled step: what it moves, along which mesh axis, how often and why.

Copies between a chip and its host count as collectives: they too overlap with computation.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from palmscale.plan.hardware.network import Network, Path
from palmscale.plan.program import hlo
from palmscale.plan.program.groups import replica_groups
from palmscale.plan.program.hlo import Array, Instruction, Program
from palmscale.plan.program.host_copies import host_copy

_KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective instruction.

    Attributes:
        name: of the instruction that starts it.
        kind: all-gather, reduce-scatter, all-reduce, all-to-all, collective-permute, or a copy to
            or from the host.
        axis: the mesh axes that its groups go along, as `data` or `data+model`; `part of data`;
            `host` of a copy.
        array: dtype and shape of the whole array: gathered, or before it is scattered.
        bytes: of that array, a chip; all arrays together where several go at once.
        padded_bytes: of these, padding that makes shards equal.
        executions: a step.
        is_async: it overlaps with what stands between its start and its end.
        source: `file.py:line`.
        op_name: scopes and primitive in JAX.
        seconds: of one execution, alone on its links.
    """

    name: str
    kind: str
    axis: str
    array: str
    bytes: int
    padded_bytes: int
    executions: int
    is_async: bool
    source: str
    op_name: str
    seconds: float
    path: Path

    @property
    def bytes_per_step(self) -> int:
        """Of all executions."""
        return self.bytes * self.executions

    @property
    def phase(self) -> str:
        """Where in the step it stands: `forward`, `backward`, `recomputed` or `other`."""
        if "rematted_computation" in self.op_name:
            return "recomputed"
        if "transpose(" in self.op_name:
            return "backward"
        return "forward" if "jvp(" in self.op_name else "other"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
    """The collectives of a program.

    Attributes:
        found: by the name of the instruction that starts each.
        ends: the name of an instruction that waits for a collective, to the name of its start.
    """

    found: dict[str, Collective]
    ends: dict[str, str]


def find(program: Program, mesh: Mesh, network: Network) -> Traffic:
    """Returns the collectives of a program, and what waits for those that are asynchronous."""
    finder = _Finder(program, mesh, network)
    for computation, executions in program.executions.items():
        finder.search(program.computations[computation], executions)
    ends = {end: start for end, start in finder.ends.items() if start in finder.found}
    return Traffic(found=finder.found, ends=ends)


class _Finder:
    """Looks computations through, one after another; see `Traffic` for what it gathers."""

    def __init__(self, program: Program, mesh: Mesh, network: Network) -> None:
        self._program, self._mesh, self._network = program, mesh, network
        self.found: dict[str, Collective] = {}
        self.ends: dict[str, str] = {}

    def search(self, body: Sequence[Instruction], executions: int) -> None:
        by_name = {instruction.name: instruction for instruction in body}
        channels: dict[str, str] = {}
        for outer in body:
            inside = _inside(self._program, outer)
            role = _role(outer, inside)
            one = next((i for i in (outer, *inside) if _kind(i) is not None), None)
            if role == "end":
                operand = outer.operands[0] if outer.operands else ""
                start = channels.get(_channel(one)) if one else operand
                self.ends[outer.name] = start or operand
            elif one is not None and role != "middle":
                channels[_channel(one)] = outer.name
                described = self._describe(outer, one, by_name, executions, role == "start")
                if described.path.size > 1:  # a group of one moves nothing
                    self.found[outer.name] = described

    def _describe(
        self,
        outer: Instruction,
        inner: Instruction,
        by_name: dict[str, Instruction],
        executions: int,
        is_async: bool,
    ) -> Collective:
        """Returns the collective `inner`, which is or stands within `outer`."""
        mesh, network = self._mesh, self._network
        kind = _kind(inner) or ""
        if copied := host_copy(inner):
            return self._copy(inner, copied, executions, by_name)
        if (
            inner is not outer
            and kind == "all-reduce"
            and "scatter" in (outer.called("calls") or "")
        ):
            kind = "reduce-scatter"
        groups = self._groups(inner)
        moved = _moved(inner)
        if inner.opcode == "reduce-scatter":
            moved = [(d, (*s[:-1], s[-1] * groups.shape[1])) for d, s in moved]
        num_bytes = sum(hlo.array_bytes(dtype, shape) for dtype, shape in moved)
        given = sum(by_name[name].bytes for name in outer.operands if name in by_name)
        padded = max(0, num_bytes - given) if kind == "reduce-scatter" and inner is not outer else 0
        pairs = kind == "collective-permute"
        path = network.way(groups) if pairs else network.path(groups[0])
        source, op_name = self._cause([outer, inner, *_makers(outer, by_name)])
        largest = max(moved, key=lambda array: hlo.array_bytes(*array), default=("", ()))
        return Collective(
            name=outer.name,
            kind=kind,
            axis=axis_of(groups, mesh, pairs=pairs),
            array=f"{largest[0]}[{','.join(map(str, largest[1]))}]",
            bytes=num_bytes,
            padded_bytes=padded,
            executions=executions,
            is_async=is_async,
            source=source,
            op_name=op_name,
            seconds=network.seconds(kind, path, num_bytes),
            path=path,
        )

    def _copy(
        self,
        start: Instruction,
        copied: tuple[str, Array],
        executions: int,
        by_name: dict[str, Instruction],
    ) -> Collective:
        """Returns a copy with the host."""
        kind, (dtype, shape) = copied
        path, num_bytes = self._network.to_host(kind), hlo.array_bytes(dtype, shape)
        source, op_name = self._cause([start, *_makers(start, by_name)])
        return Collective(
            name=start.name,
            kind=kind,
            axis="host",
            array=f"{dtype}[{','.join(map(str, shape))}]",
            bytes=num_bytes,
            padded_bytes=0,
            executions=executions,
            is_async=True,
            source=source,
            op_name=op_name,
            seconds=self._network.seconds(kind, path, num_bytes),
            path=path,
        )

    def _cause(self, nearest: Sequence[Instruction]) -> tuple[str, str]:
        """Returns the first source and the first op_name that these know."""
        source = next(filter(None, map(self._program.source, nearest)), "")
        return source, next((one.op_name for one in nearest if one.op_name), "")

    def _groups(self, inner: Instruction) -> np.ndarray:
        """Returns the device numbers of the groups, [groups, members]; at least one group."""
        if inner.opcode == "send":
            return self._network.across_slices()
        groups = replica_groups(inner.attributes, self._mesh.size)
        if groups is None:
            return np.arange(self._mesh.size)[None]
        if _kind(inner) == "collective-permute":
            others = groups[groups[:, 0] != groups[:, 1]]
            return others if len(others) else groups[:1]
        return groups


def _inside(program: Program, outer: Instruction) -> tuple[Instruction, ...]:
    """Returns the instructions of a fusion: on TPU a reduce-scatter is a fusion of an all-reduce
    and a slice, and an asynchronous collective goes on within the fusions that it runs beside."""
    if outer.opcode not in ("fusion", "fusion-start", "async-start"):
        return ()
    return program.computations.get(outer.called("calls") or "", ())


def _role(outer: Instruction, inside: Sequence[Instruction]) -> str:
    """Returns `start`, `middle` or `end` of an asynchronous collective, or `whole`."""
    if outer.opcode.endswith("-done"):
        return "end"
    if outer.opcode.endswith("-start") or outer.opcode == "send":
        return "start"
    texts = " ".join(i.attributes for i in inside if i.opcode == "custom-call")
    if "AsyncCollectiveStart" in texts:
        return "start"
    if "AsyncCollectiveDone" in texts:
        return "end"
    return "middle" if (outer.called("calls") or "").startswith("async_collective") else "whole"


def _channel(instruction: Instruction) -> str:
    found = re.search(r"channel_id=(\d+)", instruction.attributes)
    return found[1] if found else instruction.name


def _kind(instruction: Instruction) -> str | None:
    if copied := host_copy(instruction):
        return copied[0]
    if instruction.opcode == "send":
        between = _BETWEEN_SLICES.search(instruction.attributes)
        return between[1].lower().replace("_", "-") if between else None
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in _KINDS else None


def _makers(
    instruction: Instruction, by_name: dict[str, Instruction], depth: int = 6
) -> Iterator[Instruction]:
    """Yields what an instruction's operands come from, each once, nearest first.

    The compiler drops the sources of what it moves out of a loop; of their operands it does not.
    """
    seen: set[str] = set()
    near = [instruction]
    for _ in range(depth):
        names = [name for one in near for name in one.operands if name in by_name]
        near = [by_name[name] for name in dict.fromkeys(names) if name not in seen]
        seen.update(one.name for one in near)
        yield from near


def _moved(instruction: Instruction) -> list[Array]:
    """Returns the whole arrays: a start's result also has its operands ahead of them."""
    found = hlo.arrays(instruction.type)
    if instruction.opcode == "send":
        return found[:1]
    if instruction.opcode == "reduce-scatter-start":  # its operands are the whole
        return found[: hlo.results_of_start(instruction).start]
    if instruction.opcode.endswith("-start"):
        return found[hlo.results_of_start(instruction)]
    return found


def axis_of(groups: np.ndarray, mesh: Mesh, *, pairs: bool = False) -> str:
    """Returns the mesh axes along which the members of a group differ: `data`, `data+model`.

    `part of data` where a group has not all that differ along them; pairs never have.
    """
    places = np.array(np.unravel_index(groups[0], tuple(mesh.shape.values())))
    names = [name for name, row in zip(mesh.shape, places, strict=True) if len(np.unique(row)) > 1]
    whole = int(np.prod([mesh.shape[name] for name in names]))
    partly = not pairs and groups.shape[1] < whole
    return ("part of " if partly else "") + ("+".join(names) or "none")
