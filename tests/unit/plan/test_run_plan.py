"""What is planned of a run; compiling is in test_run_step.py and tests/aot."""

import dataclasses

import pytest
from small_run import RUN

from palmscale.data.stream import BatchSchedule
from palmscale.errors import UserError
from palmscale.partition.layout import Layout
from palmscale.plan import run_plan

RAMP = BatchSchedule(((0, 8), (10, 32), (20, 16)))
RAMPED = dataclasses.replace(RUN, training=dataclasses.replace(RUN.training, batch_schedule=RAMP))


@pytest.mark.parametrize(("which", "sizes"), [("largest", [32]), ("all", [8, 16, 32]), (24, [24])])
def test_the_batches_are_the_largest_all_or_the_one_named(which, sizes):
    assert run_plan.batches(RAMPED, which) == sizes


@pytest.mark.parametrize("which", ["few", 0, -3])
def test_another_batch_is_refused(which):
    with pytest.raises(UserError, match="is not `largest`, `all` or a number"):
        run_plan.batches(RAMPED, which)


def test_a_topology_is_named_or_the_layouts_own():
    meant = dataclasses.replace(RUN, layout=Layout(topology="v4:4x4x4", slices=2))
    assert run_plan.topology_of(meant, None, None).slices == 2
    assert run_plan.topology_of(meant, "v5e-4", None).slices == 1
    with pytest.raises(UserError, match="Layout.topology is None"):
        run_plan.topology_of(RUN, None, None)
