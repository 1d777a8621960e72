import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_plan
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from palmscale import axes
from palmscale.observe.throughput import Throughput, peak_flops_per_device
from palmscale.plan.hardware.network import Network
from palmscale.plan.hardware.topology import parse
from palmscale.plan.judge import judge, placement
from palmscale.plan.verdict import DoesNotFit, Fits

WHERE = parse("v5e-4")
MESH = Mesh(np.array(WHERE.describe()).reshape(2, 2), (axes.DATA, axes.MODEL))


def lowered(rows):
    """A matmul whose weight is gathered over data and whose sum goes over model."""
    w = jax.ShapeDtypeStruct((2048, 4096), jnp.bfloat16,
                             sharding=NamedSharding(MESH, P(axes.DATA, axes.MODEL)))  # fmt: skip
    x = jax.ShapeDtypeStruct((rows, 2048), jnp.bfloat16,
                             sharding=NamedSharding(MESH, P(axes.DATA)))  # fmt: skip
    return w, jax.jit(lambda w, x: jnp.sum(jax.nn.relu(x @ w) @ w.T)).lower(w, x)


def planned(rows):
    w, program = lowered(rows)
    return small_plan.step(compile=program.compile, mesh=MESH, params={"w": w}, layers=1,
                           matmul_flops=4.0 * rows * 2048 * 4096)  # fmt: skip


@pytest.fixture(scope="module")
def verdict():
    return judge(planned(8192), WHERE)


def test_a_program_that_fits_is_judged_whole(verdict):
    assert isinstance(verdict, Fits) and verdict.fits
    memory = verdict.memory
    assert memory.offered_bytes == int(15.75 * 2**30)
    assert memory.state_bytes == {"parameters": 2048 * 4096 * 2 // 4, "optimizer state": 0}
    named = sum(memory.peak_bytes_by_kind.values()) + memory.argument_bytes
    assert named >= memory.needed_bytes
    assert {one.axis for one in verdict.collectives} >= {"data"}


def test_compute_takes_no_less_than_the_peak_allows(verdict):
    ideal = verdict.compute.matmul_flops / (4 * WHERE.chip.peak_flops)
    lower, upper = verdict.prediction.lower_bound, verdict.prediction.upper_bound
    seconds = verdict.prediction.seconds
    assert ideal <= seconds.compute_upper_bound <= 3 * ideal
    assert ideal <= seconds.compute_lower_bound <= seconds.compute_upper_bound
    assert lower.step_seconds <= upper.step_seconds
    assert lower.hfu == pytest.approx(ideal / lower.step_seconds)
    for bound, compute, exposed in (
        (lower, seconds.compute_lower_bound, seconds.exposed_communication_lower_bound),
        (upper, seconds.compute_upper_bound, seconds.exposed_communication_upper_bound),
    ):
        assert bound.step_seconds == pytest.approx(compute + sum(exposed.values()))


def test_flops_follow_the_papers_formula(verdict):
    step = planned(8192)
    assert verdict.compute.model_flops == step.tokens * (6 * 10**9 + 10**8)
    assert step.causal_flops == step.tokens * (6 * 10**9 + 10**8 / 2)


def test_a_runs_mfu_is_its_plans_for_the_same_step_time(verdict):
    step, speed = planned(8192), verdict.prediction.upper_bound
    now = iter([0.0, speed.step_seconds, 0.0])
    rates = Throughput(
        flops_per_token=step.weight_flops_per_token + step.attention_flops_per_token,
        peak_flops=4 * peak_flops_per_device(MESH.devices.flat[0].device_kind),
        clock=lambda: next(now),
    )
    rates.add(step.tokens)
    assert rates.report()["mfu"] == pytest.approx(speed.mfu)


def test_a_program_that_does_not_fit_has_no_speed():
    no = judge(planned(2**23), WHERE)
    assert isinstance(no, DoesNotFit) and not no.fits
    assert no.memory.needed_bytes > no.memory.offered_bytes
    assert not hasattr(no, "prediction")


def test_without_a_clock_there_is_no_time():
    there = parse("tpu7x-4")
    mesh = Mesh(np.array(there.describe()[:4]).reshape(2, 2), (axes.DATA, axes.MODEL))
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, P(axes.DATA)))
    step = small_plan.step(compile=jax.jit(jnp.sum).lower(x).compile, mesh=mesh)
    unknown = judge(step, there)
    assert unknown.fits and unknown.prediction is None


def test_each_mesh_axis_is_placed_on_the_torus():
    found = placement(MESH, Network(WHERE, list(MESH.devices.flat)))
    assert found.keys() == {axes.DATA, axes.MODEL}
    assert sorted(one.torus for one in found.values()) == ["1 x 2 (line)", "2 (line) x 1"]


def test_a_large_array_that_every_device_has_whole_is_named(verdict):
    whole = NamedSharding(MESH, P())
    params = {
        "large": jax.ShapeDtypeStruct((2**25,), jnp.float32, sharding=whole),
        "small": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=whole),
    }
    found = judge(dataclasses.replace(planned(8192), params=params), WHERE).replicated_bytes
    assert list(found.values()) == [2**27] and "large" in next(iter(found))
    assert verdict.replicated_bytes == {}


def test_what_kernels_compute_is_part_of_hfu(monkeypatch):
    monkeypatch.setattr("palmscale.plan.judge.kernel_flops", lambda call: 1e9)
    found = judge(planned(8192), WHERE)
    assert found.compute.kernel_flops_per_device > 0
    computed = found.compute.matmul_flops + 4 * found.compute.kernel_flops_per_device
    speed = found.prediction.lower_bound
    assert speed.hfu == pytest.approx(computed / (4 * WHERE.chip.peak_flops * speed.step_seconds))


def test_a_host_holds_its_devices_state_and_three_batches(verdict):
    batch = 4 * planned(8192).tokens // WHERE.hosts
    state = 4 * sum(verdict.memory.state_bytes.values())
    assert verdict.memory.host_bytes == state + 3 * batch
