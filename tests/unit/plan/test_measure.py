import dataclasses

import pytest

from palmscale.cli.config import load
from palmscale.cli.config.load import load_run
from palmscale.errors import UserError
from palmscale.plan import measure
from palmscale.plan.report import lines
from palmscale.run.session import plan_session

TINY = ("PaLM.dim=16", "PaLM.depth=1", "PaLM.heads=1", "PaLM.dim_head=16",
        "BATCH_SCHEDULE=((0, 4),)", "SEQUENCE_LENGTH=32", "SIMULATED_DEVICES=None")  # fmt: skip


@pytest.fixture
def run():
    yield load_run(["configs/recipes/cpu_1m.gin"], TINY)
    load.reset()


def test_a_few_steps_are_timed_and_called_measured(run):
    measured = measure.measure(run)
    assert measured.tokens == 4 * 32 and len(measured.step_seconds) == 5
    assert measured.mfu is None  # nobody states a peak for this CPU
    facts = dict(lines.measured_facts(measured))
    assert facts["measured"] == "on 1 x cpu, not predicted"
    assert float(facts["step time"].split()[0]) >= 0 and "MFU (paper's)" not in facts


def test_mfu_counts_the_flops_that_training_reports(run):
    reporting = dataclasses.replace(run.reporting, peak_flops_per_device=1e12)
    measured = measure.measure(dataclasses.replace(run, reporting=reporting))
    with plan_session(run) as session:
        flops = sum(session.flops_per_token) * measured.tokens
    assert measured.mfu == pytest.approx(flops / measured.median_seconds / 1e12)


def test_without_a_gpu_it_says_what_cannot_be_known():
    with pytest.raises(UserError, match="neither whether activations fit nor how fast a step is"):
        measure.check_measurable()


def test_a_batch_must_divide(run):
    with pytest.raises(UserError, match="a batch of 3 sequences"):
        training = dataclasses.replace(run.training, gradient_accumulation_steps=2)
        measure.measure(dataclasses.replace(run, training=training), 3)
