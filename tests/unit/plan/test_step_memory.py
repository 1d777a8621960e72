import jax
import numpy as np
import small_plan
from jax.sharding import NamedSharding, PartitionSpec

from palmscale.plan.program.compile import Compiled
from palmscale.plan.step_memory import logits_sizes, peak_bytes_by_kind, state_bytes


def leaf(shape, spec):
    return jax.ShapeDtypeStruct(
        shape, np.float32, sharding=NamedSharding(small_plan.MESH, PartitionSpec(*spec))
    )


def test_the_state_is_counted_by_what_a_device_holds():
    size = next(iter(small_plan.MESH.shape.values()))
    axis = next(iter(small_plan.MESH.shape))
    step = small_plan.step(
        params={"w": leaf((size * 4, 8), (axis,))}, optimizer_state={"m": leaf((8,), ())}
    )
    assert state_bytes(step) == {"parameters": 4 * 4 * 8, "optimizer state": 4 * 8}


def test_logits_may_be_whole_or_split_over_an_axis():
    assert small_plan.step().vocabulary in logits_sizes(small_plan.step())


def test_what_the_compiler_counts_beyond_the_arrays_is_not_attributed():
    compiled = Compiled(
        text="",
        peak_bytes=100,
        argument_bytes=40,
        output_bytes=0,
        aliased_bytes=0,
        temporary_bytes=0,
        program_bytes=0,
        cpu_seconds=0,
        executable=None,
    )
    assert peak_bytes_by_kind(small_plan.step(), [], compiled) == {"not attributed": 60}
