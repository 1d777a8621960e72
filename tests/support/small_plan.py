"""A verdict made by hand from the small program: no compiler."""

import types

from small_program import MESH, TEXT, network

from palmscale.plan import collectives, hlo
from palmscale.plan.compute import expected_seconds
from palmscale.plan.schedule import step_times
from palmscale.plan.surprises import Surprise
from palmscale.plan.verdict import Speed, Step, Verdict

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
        attention_flops_per_token=10**8,
        matmul_flops=8e15,
        layers=3,
        vocabulary=4096,
    )
    return Step(**fields | changes)


def verdict(**changes):
    net = network()
    program = hlo.parse(TEXT)
    traffic = collectives.find(program, MESH, net)
    found = tuple(sorted(traffic.found.values(), key=lambda one: -one.bytes_per_step))
    compiled = types.SimpleNamespace(
        peak_bytes=5 * GIB,
        argument_bytes=2 * GIB,
        output_bytes=2 * GIB,
        aliased_bytes=2 * GIB,
        temporary_bytes=3 * GIB,
        program_bytes=2**20,
        cpu_seconds=1.5,
    )

    def times(clock_hz):
        return step_times(
            program,
            traffic,
            compute_seconds=expected_seconds(clock_hz),
            kernel_seconds=lambda call: 0.0,
        )

    fields = dict(
        topology=net.topology,
        step=step(),
        fits=True,
        needed_bytes=5 * GIB,
        offered_bytes=int(15.75 * GIB),
        state={"parameters": GIB, "optimizer state": GIB},
        host_bytes=9 * GIB,
        placement={"data": net.path(collectives.np.arange(0, 256, 16))},
        held={"logits": 2 * GIB, "gradients": GIB},
        found=found,
        surprises=(Surprise(collective=found[-1], why="<nobody> expects it"),),
        cycles=6500,
        times=times(1e6),
        at_best=times(2e6),
        fast=Speed(seconds=1.0, mfu=0.5, mfu_causal=0.48, hfu=0.6, tokens_per_second_per_chip=4096),
        slow=Speed(seconds=1.25, mfu=0.4, mfu_causal=0.38, hfu=0.5,
                   tokens_per_second_per_chip=3276.8),
        compiled=compiled,
    )  # fmt: skip
    return Verdict(**fields | changes)
