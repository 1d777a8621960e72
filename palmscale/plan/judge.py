"""Judges a lowered step: compiles it for a topology, and reads the program."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from palmscale import axes
from palmscale.errors import DoesNotFitError
from palmscale.plan.hardware.network import Network, describe_path
from palmscale.plan.hardware.topology import Topology
from palmscale.plan.program import collectives, hlo, memory, schedule
from palmscale.plan.program.collectives import Collective, Traffic
from palmscale.plan.program.compile import Compiled, compile_step, offered_bytes
from palmscale.plan.program.compute import expected_seconds, least_matmul_seconds, least_seconds
from palmscale.plan.program.hlo import Instruction, Program
from palmscale.plan.program.host_copies import bytes_on_host
from palmscale.plan.program.kernels import kernel_flops
from palmscale.plan.program.unexpected import unexpected
from palmscale.plan.step import Step
from palmscale.plan.step_memory import (
    host_bytes,
    logits_sizes,
    peak_bytes_by_kind,
    replicated_bytes,
    state_bytes,
)
from palmscale.plan.verdict import (
    CollectiveUse,
    Compute,
    DoesNotFit,
    Fits,
    Memory,
    Placement,
    Prediction,
    ProgramCompute,
    ProgramMemory,
    SavedArray,
    Speed,
    StepSeconds,
    UnexpectedCollective,
)


def judge(step: Step, topology: Topology) -> Fits | DoesNotFit:
    """Returns the verdict on a step, having compiled it."""
    network = Network(topology, list(step.mesh.devices.flat))
    known = {
        "topology": str(topology),
        "chips": topology.chips,
        "hosts": topology.hosts,
        "devices": topology.devices,
        "mesh": {name: int(size) for name, size in step.mesh.shape.items()},
        "placement": placement(step.mesh, network),
        "step_digest": step.digest,
        "batch_sequences": step.tokens // step.sequence_length,
        "sequence_length": step.sequence_length,
        "parameters": step.num_params,
        "replicated_bytes": replicated_bytes(step),
    }
    try:
        compiled = compile_step(step.compile)
    except DoesNotFitError as error:
        return DoesNotFit(
            **known,
            memory=Memory(
                **_memory(step, topology),
                needed_bytes=error.needed_bytes,
                offered_bytes=error.offered_bytes,
            ),
            compute=Compute(model_flops=step.model_flops, matmul_flops=step.matmul_flops),
        )
    program = hlo.parse(compiled.text)
    traffic = collectives.find(program, step.mesh, network)
    found = sorted(traffic.found.values(), key=lambda one: -one.bytes_per_step)
    kernels = _total(program, kernel_flops)
    return Fits(
        **known,
        memory=_program_memory(step, topology, compiled, program),
        compute=ProgramCompute(
            model_flops=step.model_flops,
            matmul_flops=step.matmul_flops,
            cycles=int(_total(program, lambda instruction: instruction.cycles)),
            kernel_flops_per_device=kernels,
        ),
        collectives=tuple(_use(one, step.layers) for one in found),
        unexpected_collectives=_unexpected(step, traffic.found),
        prediction=_prediction(step, topology, program, traffic, kernels),
        compile_cpu_seconds=round(compiled.cpu_seconds, 1),
    )


def placement(mesh: Mesh, network: Network) -> dict[str, Placement]:
    """Returns what joins the devices along each mesh axis that has more than one."""
    sizes = tuple(mesh.shape.values())
    numbers = np.arange(mesh.size).reshape(sizes)
    paths = {
        name: network.path(np.moveaxis(numbers, dim, 0).reshape(size, -1)[:, 0])
        for dim, (name, size) in enumerate(mesh.shape.items())
        if size > 1
    }
    return {
        name: Placement(torus=describe_path(path.extents, path.rings), slices=path.slices)
        for name, path in paths.items()
    }


def _memory(step: Step, topology: Topology) -> dict[str, Any]:
    return {
        "state_bytes": state_bytes(step),
        "saved_arrays": tuple(
            SavedArray(
                array=f"{dtype}[{','.join(map(str, shape))}]", bytes_of_all_devices=num_bytes
            )
            for dtype, shape, num_bytes in step.saved
        ),
        "host_bytes": host_bytes(step, topology),
        "host_offered_bytes": topology.chip.host_bytes,
    }


def _program_memory(
    step: Step, topology: Topology, compiled: Compiled, program: Program
) -> ProgramMemory:
    arrays = memory.at_the_peak(program)
    known = _memory(step, topology)
    known["host_bytes"] += bytes_on_host(program) * topology.devices // topology.hosts
    return ProgramMemory(
        **known,
        needed_bytes=compiled.peak_bytes,
        offered_bytes=offered_bytes(step.mesh.devices.flat[0]),
        peak_bytes_by_kind=peak_bytes_by_kind(step, arrays, compiled),
        peak_arrays=tuple(held for held in arrays if held.bytes >= 2**20),
        argument_bytes=compiled.argument_bytes,
        aliased_bytes=compiled.aliased_bytes,
        temporary_bytes=compiled.temporary_bytes,
        program_bytes=compiled.program_bytes,
    )


def _use(one: Collective, layers: int) -> CollectiveUse:
    return CollectiveUse(
        kind=one.kind,
        axis=one.axis,
        array=one.array,
        bytes=one.bytes,
        executions_per_step=one.executions,
        executions_per_layer=round(one.executions / layers, 2),
        asynchronous=one.is_async,
        phase=one.phase,
        source=one.source,
        op_name=one.op_name,
        milliseconds=round(one.seconds * 1e3, 4),
    )


def _unexpected(step: Step, found: Mapping[str, Collective]) -> tuple[UnexpectedCollective, ...]:
    layer = max((math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(step.params)), default=0)
    flagged = unexpected(
        list(found.values()),
        logits_sizes=logits_sizes(step),
        # Half of what a model shard has of a layer's largest matrix, in bfloat16: above the sums
        # of norms, keys and values.
        gradient_bytes=layer // step.mesh.shape.get(axes.MODEL, 1),
    )
    return tuple(
        UnexpectedCollective(why=why, collective=_use(one, step.layers)) for one, why in flagged
    )


def _prediction(
    step: Step, topology: Topology, program: Program, traffic: Traffic, kernels: float
) -> Prediction | None:
    """Returns the bounds of the step time; `kernels` are FLOPs of one device."""
    chip = topology.chip
    if chip.clock_hz is None:
        return None
    matmul_seconds = least_matmul_seconds(
        chip, step.matmul_flops / topology.devices, state_bytes(step)["parameters"]
    )
    expected, least = (
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
    return Prediction(
        lower_bound=_speed(step, topology, least.overlapped, kernels),
        upper_bound=_speed(step, topology, expected.serial, kernels),
        seconds=StepSeconds(
            compute_lower_bound=least.compute,
            compute_upper_bound=expected.compute,
            kernels=expected.kernels,
            exposed_communication_lower_bound=dict(least.exposed),
            exposed_communication_upper_bound=dict(expected.moving),
        ),
    )


def _speed(step: Step, topology: Topology, seconds: float, kernels: float) -> Speed:
    computed = step.matmul_flops + kernels * topology.devices
    peak = topology.chips * topology.chip.peak_flops * seconds
    return Speed(
        step_seconds=seconds,
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
