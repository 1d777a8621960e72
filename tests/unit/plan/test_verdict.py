import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_plan
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from palmscale import axes
from palmscale.plan.network import Network
from palmscale.plan.topology import parse
from palmscale.plan.verdict import judge, placement

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
    assert verdict.fits
    assert verdict.offered_bytes == int(15.75 * 2**30)
    assert verdict.state == {"parameters": 2048 * 4096 * 2 // 4, "optimizer state": 0}
    compiled = verdict.compiled
    named = sum(verdict.held.values()) + compiled.argument_bytes
    assert named >= compiled.peak_bytes
    assert {one.axis for one in verdict.found} >= {"data"}


def test_compute_takes_no_less_than_the_peak_allows(verdict):
    ideal = verdict.step.matmul_flops / (4 * WHERE.chip.peak_flops)
    assert ideal <= verdict.times.compute <= 3 * ideal
    assert verdict.fast.seconds <= verdict.slow.seconds
    assert verdict.fast.hfu == pytest.approx(ideal / verdict.fast.seconds)
    assert ideal <= verdict.at_best.compute <= verdict.times.compute
    assert verdict.fast.seconds == verdict.at_best.overlapped
    assert verdict.slow.seconds == verdict.times.serial


def test_flops_follow_the_papers_formula(verdict):
    step = verdict.step
    assert step.model_flops == step.tokens * (6 * 10**9 + 10**8)
    assert step.causal_flops == step.tokens * (6 * 10**9 + 10**8 / 2)


def test_a_program_that_does_not_fit_has_no_speed():
    no = judge(planned(2**23), WHERE)
    assert not no.fits and no.needed_bytes > no.offered_bytes
    assert (no.times, no.fast, no.found) == (None, None, ())


def test_without_a_clock_there_is_no_time(verdict):
    there = parse("tpu7x-4")
    mesh = Mesh(np.array(there.describe()[:4]).reshape(2, 2), (axes.DATA, axes.MODEL))
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, P(axes.DATA)))
    step = dataclasses.replace(
        verdict.step, compile=jax.jit(jnp.sum).lower(x).compile, mesh=mesh, params={}
    )
    unknown = judge(step, there)
    assert unknown.fits and unknown.times is None


def test_each_mesh_axis_is_placed_on_the_torus():
    paths = placement(MESH, Network(WHERE, list(MESH.devices.flat)))
    assert paths.keys() == {axes.DATA, axes.MODEL}
    assert all(sorted(path.extents) == [1, 2] for path in paths.values())
    assert paths[axes.DATA].extents != paths[axes.MODEL].extents


def test_a_large_array_that_every_device_has_whole_is_named(verdict):
    whole = NamedSharding(MESH, P())
    params = {
        "large": jax.ShapeDtypeStruct((2**25,), jnp.float32, sharding=whole),
        "small": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=whole),
    }
    found = judge(dataclasses.replace(verdict.step, params=params), WHERE).replicated
    assert list(found.values()) == [2**27] and "large" in next(iter(found))
    assert verdict.replicated == {}


def test_what_kernels_compute_is_part_of_hfu(verdict, monkeypatch):
    monkeypatch.setattr("palmscale.plan.verdict.kernel_flops", lambda call: 1e9)
    with_kernels = judge(planned(8192), WHERE)
    assert with_kernels.kernel_flops > 0
    computed = verdict.step.matmul_flops + 4 * with_kernels.kernel_flops
    peak = 4 * WHERE.chip.peak_flops * with_kernels.fast.seconds
    assert with_kernels.fast.hfu == pytest.approx(computed / peak)


def test_a_host_holds_its_devices_state_and_three_batches(verdict):
    batch = 4 * verdict.step.tokens // WHERE.hosts
    assert verdict.host_bytes == 4 * sum(verdict.state.values()) + 3 * batch
