"""What a plan says of one step on one topology: whether it fits, how long it takes, and why."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from palmscale import axes
from palmscale.data.feed import PREFETCH_BATCHES
from palmscale.errors import DoesNotFitError
from palmscale.partition.shardings import path_name
from palmscale.plan import collectives, hlo, memory, schedule
from palmscale.plan.collectives import Collective
from palmscale.plan.compile import Compiled, compile_step, offered_bytes
from palmscale.plan.compute import expected_seconds, least_matmul_seconds, least_seconds
from palmscale.plan.hlo import Instruction, Program
from palmscale.plan.host_copies import bytes_on_host
from palmscale.plan.kernels import kernel_flops
from palmscale.plan.network import Network, Path
from palmscale.plan.saved import Saved
from palmscale.plan.schedule import Times
from palmscale.plan.surprises import Surprise, surprises
from palmscale.plan.topology import Topology

_LARGE_COPY_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A step to plan, lowered for its mesh, and what the arithmetic needs to know of it.

    Attributes:
        compile: compiles the lowered program, as the run itself would.
        digest: of the lowered program.
        mesh: over the topology's devices.
        params: shapes with shardings.
        optimizer_state: likewise.
        tokens: a step.
        sequence_length: tokens a row.
        num_params: as the paper counts them: no norm scales, no padding.
        attention_flops_per_token: of training, whole attention counted.
        matmul_flops: of all devices together, with what is computed anew; kernels apart.
        layers: N.
        vocabulary: rows of the token table.
        saved: (dtype, shape, bytes of all devices) of what the backward pass finds saved.
    """

    compile: Callable[[], jax.stages.Compiled]
    digest: str
    mesh: Mesh
    params: Any
    optimizer_state: Any
    tokens: int
    sequence_length: int
    num_params: int
    attention_flops_per_token: float
    matmul_flops: float
    layers: int
    vocabulary: int
    saved: tuple[Saved, ...] = ()

    @property
    def model_flops(self) -> float:
        """Of a step by the paper's count (appendix B): 6N a token, and all of attention."""
        return self.tokens * (6 * self.num_params + self.attention_flops_per_token)

    @property
    def causal_flops(self) -> float:
        """The same with the half of attention that a causal mask leaves."""
        return self.tokens * (6 * self.num_params + self.attention_flops_per_token / 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """A predicted time of a step, and the shares of the chips' peak that it makes.

    Attributes:
        seconds: of a step.
        mfu: the paper's: model FLOPs, whole attention.
        mfu_causal: model FLOPs, causal attention.
        hfu: the matmuls that are computed, rematerialization included.
        tokens_per_second_per_chip: of training.
    """

    seconds: float
    mfu: float
    mfu_causal: float
    hfu: float
    tokens_per_second_per_chip: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """The whole answer for one step; what a compile that does not fit cannot tell is None or empty.

    Attributes:
        fits: the compiler accepts the program.
        needed_bytes: a device, at the fullest moment; of a program that does not fit, what the
            compiler says that it needs.
        offered_bytes: that the compiler lets a program have.
        state: bytes a device of what is there between steps, by name.
        host_bytes: that a host needs for one checkpoint in flight, the batches read ahead, and
            what its devices save there in a step.
        placement: what joins the devices along each mesh axis.
        held: bytes a device of the step's own arrays at the fullest moment, by kind.
        arrays: these arrays, the largest first.
        found: collectives, the most bytes a step first.
        surprises: of these, those that a well-laid-out step would not have.
        replicated: bytes of parameters and moments of which every device has a whole, large copy.
        times: by the compiler's cycles; None where the clock is unknown.
        at_best: the same with matmuls at the chip's peak.
        fast: the speed with matmuls at the peak, if all that is asynchronous overlaps as scheduled.
        slow: the speed by the compiler's cycles, if nothing overlaps.
    """

    topology: Topology
    step: Step
    fits: bool
    needed_bytes: int
    offered_bytes: int | None
    state: dict[str, int]
    host_bytes: int
    placement: dict[str, Path]
    held: dict[str, int] = dataclasses.field(default_factory=dict)
    arrays: tuple[memory.Held, ...] = ()
    found: tuple[Collective, ...] = ()
    surprises: tuple[Surprise, ...] = ()
    replicated: dict[str, int] = dataclasses.field(default_factory=dict)
    cycles: int = 0
    kernel_flops: float = 0.0
    times: Times | None = None
    at_best: Times | None = None
    fast: Speed | None = None
    slow: Speed | None = None
    compiled: Compiled | None = None


def judge(step: Step, topology: Topology) -> Verdict:
    """Returns the verdict on a step: compiles it, and reads the program."""
    network = Network(topology, list(step.mesh.devices.flat))
    known: dict[str, Any] = {
        "topology": topology,
        "step": step,
        "state": _state_bytes(step),
        "host_bytes": _host_bytes(step, topology),
        "placement": placement(step.mesh, network),
        "replicated": _replicated(step),
        "offered_bytes": offered_bytes(step.mesh.devices.flat[0]),
    }
    try:
        compiled = compile_step(step.compile)
    except DoesNotFitError as error:
        known["offered_bytes"] = error.offered_bytes
        return Verdict(**known, fits=False, needed_bytes=error.needed_bytes)
    program = hlo.parse(compiled.text)
    traffic = collectives.find(program, step.mesh, network)
    arrays = memory.at_the_peak(program)
    chip = topology.chip
    kernels = _total(program, kernel_flops)
    times = at_best = fast = slow = None
    if chip.clock_hz is not None:
        flops, weights = step.matmul_flops / topology.devices, known["state"]["parameters"]
        matmul_seconds = least_matmul_seconds(chip, flops, weights)
        times, at_best = (
            schedule.step_times(
                program,
                traffic,
                compute_seconds=seconds,
                kernel_seconds=lambda call: kernel_flops(call) / chip.device_peak_flops,
            )
            for seconds in (
                expected_seconds(chip.clock_hz),
                least_seconds(program, chip.clock_hz, matmul_seconds),
            )
        )
        fast = _speed(step, topology, at_best.overlapped, kernels)
        slow = _speed(step, topology, times.serial, kernels)
    known["host_bytes"] += bytes_on_host(program) * topology.devices // topology.hosts
    return Verdict(
        **known,
        fits=True,
        needed_bytes=compiled.peak_bytes,
        held=_held_by_kind(step, arrays, compiled),
        arrays=tuple(arrays),
        found=tuple(sorted(traffic.found.values(), key=lambda one: -one.bytes_per_step)),
        surprises=tuple(_surprises(step, traffic.found)),
        cycles=int(_total(program, lambda instruction: instruction.cycles)),
        kernel_flops=kernels,
        times=times,
        at_best=at_best,
        fast=fast,
        slow=slow,
        compiled=compiled,
    )


def placement(mesh: Mesh, network: Network) -> dict[str, Path]:
    """Returns what joins the devices along each mesh axis that has more than one."""
    sizes = tuple(mesh.shape.values())
    numbers = np.arange(mesh.size).reshape(sizes)
    return {
        name: network.path(np.moveaxis(numbers, dim, 0).reshape(size, -1)[:, 0])
        for dim, (name, size) in enumerate(mesh.shape.items())
        if size > 1
    }


def _state_bytes(step: Step) -> dict[str, int]:
    return {
        "parameters": sum(map(_shard_bytes, jax.tree.leaves(step.params))),
        "optimizer state": sum(map(_shard_bytes, jax.tree.leaves(step.optimizer_state))),
    }


def _replicated(step: Step) -> dict[str, int]:
    return {
        path_name(path): leaf.size * leaf.dtype.itemsize
        for path, leaf in jax.tree_util.tree_leaves_with_path((step.params, step.optimizer_state))
        if leaf.size * leaf.dtype.itemsize > _LARGE_COPY_BYTES
        and step.mesh.size > 1
        and _shard(leaf) == leaf.shape
    }


def _host_bytes(step: Step, topology: Topology) -> int:
    """Of a checkpoint a host holds its share of one copy, replicas dividing it; see checkpoint/."""
    replicas = step.mesh.shape.get(axes.REPLICA, 1)
    devices = topology.devices // topology.hosts
    state = sum(_state_bytes(step).values()) * devices // replicas
    batch = 4 * step.tokens // topology.hosts  # int32 ids
    return state + (PREFETCH_BATCHES + 1) * batch  # one more is being read


def _shard(leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    return tuple(leaf.sharding.shard_shape(leaf.shape))


def _shard_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    return math.prod(_shard(leaf)) * leaf.dtype.itemsize


def _held_by_kind(step: Step, arrays: Sequence[memory.Held], compiled: Compiled) -> dict[str, int]:
    """Returns the bytes of the step's own arrays at the fullest moment, the largest kind first."""
    shards = {_shard(leaf) for leaf in jax.tree.leaves(step.params)}
    logits = _logits_sizes(step)
    kinds: dict[str, int] = {}
    for held in arrays:
        kind = _kind(held, shards, step.layers, logits)
        kinds[kind] = kinds.get(kind, 0) + held.bytes
    # The compiler's own count is the one that is true; what it has beyond ours has no name.
    rest = compiled.peak_bytes - compiled.argument_bytes - sum(kinds.values())
    if rest > 0:
        kinds["not attributed"] = rest
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def _kind(held: memory.Held, shards: set[tuple[int, ...]], layers: int, logits: set[int]) -> str:
    whole_layer = held.shape[1:] if held.shape[:1] == (1,) else held.shape
    if held.shape in shards:
        return "gradients" if held.dtype == "f32" else "parameters in bfloat16"
    if len(held.shape) >= 3 and held.shape[-1] in logits:
        return "logits"
    if len(held.shape) >= 3 and held.shape[0] == layers:
        return "activations saved for the backward pass"
    if "dot_general" in held.op_name or "convert" in held.op_name or len(whole_layer) >= 3:
        return "activations of one layer"
    return "workspace"


def _logits_sizes(step: Step) -> set[int]:
    return {-(-step.vocabulary // size) for size in (1, *step.mesh.shape.values())}


def _surprises(step: Step, found: Mapping[str, Collective]) -> list[Surprise]:
    layer = max((math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(step.params)), default=0)
    return surprises(
        list(found.values()),
        logits_sizes=_logits_sizes(step),
        # Half of what a model shard has of a layer's largest matrix, in bfloat16: above the sums
        # of norms, keys and values.
        gradient_bytes=layer // step.mesh.shape.get(axes.MODEL, 1),
    )


def _speed(step: Step, topology: Topology, seconds: float, kernels: float) -> Speed:
    """`kernels` are the FLOPs of one device that the traced program does not tell."""
    computed = step.matmul_flops + kernels * topology.devices
    peak = topology.chips * topology.chip.peak_flops * seconds
    return Speed(
        seconds=seconds,
        mfu=step.model_flops / peak,
        mfu_causal=step.causal_flops / peak,
        hfu=computed / peak,
        tokens_per_second_per_chip=step.tokens / seconds / topology.chips,
    )


def _total(program: Program, of: Callable[[Instruction], float]) -> float:
    return sum(
        times * sum(of(instruction) for instruction in program.computations[name])
        for name, times in program.executions.items()
    )
