"""A step, verdicts and plans made by hand, and from the small program: no compiler."""

import dataclasses

from small_program import MESH, TEXT, network

from palmscale.plan.plans import Plan
from palmscale.plan.program import collectives, hlo, memory
from palmscale.plan.step import Step
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

GIB = 2**30


def step(**changes):
    fields = dict(
        compile=None,
        digest="d" * 64,
        mesh=MESH,
        params={},
        optimizer_state={},
        tokens=512 * 2048,
        sequence_length=2048,
        num_params=10**9,
        weight_flops_per_token=6 * 10**9,
        attention_flops_per_token=10**8,
        matmul_flops=8e15,
        layers=3,
        vocabulary=4096,
    )
    return Step(**fields | changes)


KNOWN = dict(
    topology="v5e:16x16",
    chips=256,
    hosts=64,
    devices=256,
    mesh={"data": 16, "model": 16},
    placement={"data": Placement(torus="16 (ring) x 1", slices=1)},
    step_digest="d" * 64,
    batch_sequences=512,
    sequence_length=2048,
    parameters=10**9,
    replicated_bytes={},
)
MEMORY = dict(
    needed_bytes=5 * GIB,
    offered_bytes=int(15.75 * GIB),
    state_bytes={"parameters": GIB, "optimizer state": GIB},
    saved_arrays=(SavedArray(array="float32[3,512,8]", bytes_of_all_devices=256 * GIB),),
    host_bytes=9 * GIB,
    host_offered_bytes=192 * 10**9,
)
COMPUTE = dict(model_flops=6e15, matmul_flops=8e15)


def collective_uses():
    """The small program's collectives, the most bytes a step first."""
    found = collectives.find(hlo.parse(TEXT), MESH, network()).found.values()
    return tuple(
        CollectiveUse(
            kind=one.kind,
            axis=one.axis,
            array=one.array,
            bytes=one.bytes,
            executions_per_step=one.executions,
            executions_per_layer=one.executions / 3,
            asynchronous=one.is_async,
            phase=one.phase,
            source=one.source,
            op_name=one.op_name,
            milliseconds=one.seconds * 1e3,
        )
        for one in sorted(found, key=lambda one: -one.bytes_per_step)
    )


def prediction(lower=1.0, upper=1.25):
    def speed(seconds):
        return Speed(step_seconds=seconds, mfu=0.5 / seconds, mfu_causal=0.48 / seconds,
                     hfu=0.6 / seconds, tokens_per_second_per_chip=4096 / seconds)  # fmt: skip

    seconds = StepSeconds(
        compute_lower_bound=lower / 2,
        compute_upper_bound=upper / 2,
        kernels=0.0,
        exposed_communication_lower_bound={"data": lower / 2},
        exposed_communication_upper_bound={"data": upper / 2},
    )
    return Prediction(lower_bound=speed(lower), upper_bound=speed(upper), seconds=seconds)


def fits(**changes):
    found = collective_uses()
    fields = dict(
        **KNOWN,
        memory=ProgramMemory(
            **MEMORY,
            peak_bytes_by_kind={"logits": 2 * GIB, "gradients": GIB},
            peak_arrays=tuple(memory.at_the_peak(hlo.parse(TEXT))),
            argument_bytes=2 * GIB,
            aliased_bytes=2 * GIB,
            temporary_bytes=3 * GIB,
            program_bytes=2**20,
        ),
        compute=ProgramCompute(**COMPUTE, cycles=6500, kernel_flops_per_device=0.0),
        collectives=found,
        unexpected_collectives=(
            UnexpectedCollective(why="<nobody> expects it", collective=found[-1]),
        ),
        prediction=prediction(),
        compile_cpu_seconds=1.5,
    )
    return Fits(**fields | changes)


def does_not_fit(needed_bytes=int(31.5 * GIB)):
    memory = Memory(**MEMORY | {"needed_bytes": needed_bytes})
    return DoesNotFit(**KNOWN, memory=memory, compute=Compute(**COMPUTE))


def plan(verdict=None, **changes):
    made = Plan(verdict=verdict or fits(), tokens_to_train=1000 * 512 * 2048)
    return dataclasses.replace(made, **changes)
