"""The layout of a run's state; whole recipes are in tests/unit/cli/commands/test_explain.py."""

import dataclasses

import pytest
from small_run import RUN

from palmscale import axes
from palmscale.errors import UserError
from palmscale.plan.report.state import StateLayout

SIZES = {axes.REPLICA: 1, axes.DATA: 4, axes.MODEL: 2}


def test_each_parameter_has_a_row_and_its_bytes_add_up():
    state = StateLayout.of(RUN, SIZES)
    headings, rows = state.parameter_rows()
    assert len(headings) == 5 and len(rows) == len(state.params)
    facts = dict(state.facts())
    assert facts["mesh"] == "8 device(s): replica=1 x data=4 x model=2"
    assert facts["parameters"] == f"{state.counts.stored:,} stored"
    assert sum(array.bytes for array in state.params) == 4 * state.counts.stored
    assert "layers/norm" in facts["replicated"]


def test_a_batch_that_does_not_divide_is_refused():
    training = dataclasses.replace(RUN.training, gradient_accumulation_steps=4)
    with pytest.raises(UserError, match="a batch of 8 sequences"):
        StateLayout.of(dataclasses.replace(RUN, training=training), SIZES)
