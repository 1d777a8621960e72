"""The arrays that make up the peak memory of a step.

The compiler reports one number, peak memory. This module finds the arrays behind it: it walks the
program in its schedule, and each array lives from where it is made to where it is last read. What
passes through a loop, or leaves the step in the memory of a donated argument, is counted where it
came from.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence

from palmscale.plan.program import hlo
from palmscale.plan.program.hlo import Array, Instruction, Program

Made = tuple[Instruction, Array]

# These rename their operand's memory, or write into it.
_PASSES_ON = {
    "bitcast",
    "while",
    "optimization-barrier",
    "dynamic-update-slice",
}
_OWNED_ELSEWHERE = {"parameter", "constant", "iota", "partition-id", "after-all"}
_LEAF = re.compile(r"(pred|[sufb]\w*?\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
_ELSEWHERE = re.compile(r"S\(\d+\)")  # vector, scalar and common memory; the host's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """Arrays of one dtype and shape that are alive at peak."""

    dtype: str
    shape: tuple[int, ...]
    count: int
    bytes: int
    source: str
    op_name: str


def at_the_peak(program: Program) -> list[Held]:
    """Returns the step's own arrays at peak, without its arguments, the largest first."""
    alike: dict[Array, list[Instruction]] = collections.defaultdict(list)
    for instruction, array in _Liveness(program).at_peak(program.entry):
        alike[array].append(instruction)
    held = [
        Held(
            dtype=array[0],
            shape=array[1],
            count=len(makers),
            bytes=len(makers) * hlo.array_bytes(*array),
            source=program.source(makers[0]),
            op_name=makers[0].op_name,
        )
        for array, makers in alike.items()
    ]
    return sorted(held, key=lambda one: -one.bytes)


class _Liveness:
    """The peaks of a program's computations, each computed once."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._done: dict[str, list[Made]] = {}

    def at_peak(self, name: str) -> list[Made]:
        """Returns what a computation, and those that it runs, hold at its peak."""
        if name not in self._done:
            self._done[name] = self._walk(self._program.computations[name])
        return self._done[name]

    def _walk(self, body: Sequence[Instruction]) -> list[Made]:
        leaves: dict[str, list[Made | None]] = {}
        last_read: dict[int, int] = {}
        for place, instruction in enumerate(body):
            leaves[instruction.name] = _leaves(instruction, leaves)
            # To take one array out of a tuple is not to read the others.
            takes_one = instruction.opcode == "get-tuple-element"
            for name in (instruction.name, *(() if takes_one else instruction.operands)):
                for made in leaves.get(name, ()):
                    last_read[id(made)] = place
        # Results are in the caller's memory.
        handed_back = {id(made) for i in body if i.is_root for made in leaves[i.name]}
        live: dict[int, Made] = {}
        size = best = 0
        peak: list[Made] = []
        for place, instruction in enumerate(body):
            for made in leaves[instruction.name]:
                if made and made[0] is instruction and id(made) not in handed_back:
                    live[id(made)] = made
                    size += hlo.array_bytes(*made[1])
            runs = [self.at_peak(name) for name, _ in self._program.inner(instruction)]
            inside = max(runs, key=_total, default=[])
            if size + _total(inside) > best:
                best, peak = size + _total(inside), [*live.values(), *inside]
            for made in [made for key, made in live.items() if last_read[key] == place]:
                size -= hlo.array_bytes(*made[1])
                del live[id(made)]
        return peak


def _leaves(instruction: Instruction, leaves: dict[str, list[Made | None]]) -> list[Made | None]:
    """Returns, for each array of a result, what made its memory; None: the caller, or no HBM."""
    given = [made for name in instruction.operands for made in leaves.get(name, ())]
    arrays = _LEAF.findall(instruction.type)
    if instruction.opcode in _OWNED_ELSEWHERE:
        return [None] * len(arrays)
    if instruction.opcode == "tuple":
        return given
    if instruction.opcode == "get-tuple-element":
        index = re.search(r"index=(\d+)", instruction.attributes)
        place = int(index[1]) if index else 0
        return given[place : place + 1] if len(arrays) == 1 else given
    if instruction.opcode == "async-update":
        return given
    if instruction.opcode in _PASSES_ON or instruction.opcode.endswith("-done"):
        return given[: len(arrays)]
    made: list[Made | None] = [
        None
        if _ELSEWHERE.search(layout)
        else (instruction, (dtype, tuple(int(d) for d in dims.split(",") if d)))
        for dtype, dims, layout in arrays
    ]
    if instruction.opcode == "dynamic-update-slice-start":
        return [given[0], *given]
    if instruction.opcode.endswith("-start"):
        # First what its end hands on, then the operands, which are read until then.
        results = hlo.results_of_start(instruction)
        return [*made[results], *given]
    return made


def _total(made: Sequence[Made]) -> int:
    return sum(hlo.array_bytes(*array) for _, array in made)
