"""What a plan of generation says: where weights and cache lie, how long it takes, and why."""

import dataclasses

import pytest
import small_plan
from flax import linen as nn
from small_run import RUN

from palmscale.errors import UserError
from palmscale.infer.choose import Choice
from palmscale.plan.generation import GenerationPlan, PhasePlan, Workload
from palmscale.plan.report.generation import generation_facts, layout_facts


class NoExtend(nn.Module):
    def hidden(self, tokens_BL):
        return tokens_BL

    def unembed(self, x_BLD):
        return x_BLD


def phase(verdict, **fields):
    choice = Choice(table="weights_2d", rules={}, why="sums are small")
    known = dict(
        choice=choice, sequences=64, new_tokens=1, weight_bytes=2**30, cache_bytes=2**28,
        model_flops=1e12, read_seconds=0.5, peak_flops=1e13, verdict=verdict,
    )  # fmt: skip
    return PhasePlan(**known | fields)


def test_each_phase_states_its_layout_its_bytes_and_its_bounds():
    plan = GenerationPlan(
        mesh={"replica": 1, "data": 4, "model": 16},
        prompt=phase(small_plan.fits(), sequences=1, new_tokens=100),
        one_token=phase(small_plan.fits(prediction=None)),
    )
    facts = generation_facts(plan, "v4:4x4x4")
    assert facts[:2] == [("topology", "v4:4x4x4"), ("mesh", "data=4 x model=16")]
    prompt = dict(facts[:10])
    assert prompt["  layout"] == "weights_2d: sums are small"
    assert prompt["  cache"] == "256.00 MiB a device, 1 prompts"
    # 1e12 FLOPs of 1e13 a second; the program's bounds are 1 and 1.25 s.
    assert (
        prompt["  time"].startswith("1,000.00 to 1,250.00 ms")
        and prompt["  MFU"] == "8.0% to 10.0%"
    )
    assert prompt["  rate"] == "80 to 100 tokens a second, all prompts"
    assert dict(facts)["  time"].startswith("unknown")


def test_no_bound_is_below_the_time_to_read_weights_and_cache():
    assert phase(small_plan.fits(), read_seconds=1.1).seconds == (1.1, 1.25 + 1.1 - 0.625)
    assert phase(small_plan.fits(prediction=None)).seconds is None


def test_the_layouts_of_both_phases_are_told_without_compiling():
    facts = dict(layout_facts(RUN, 8, 1, Workload(samples=16)))
    assert set(facts) == {"generation", "  weights", "  prefill", "  decode"}
    assert facts["  decode"].startswith("weights_")
    assert "16 sequence(s) is split over 8 of 8 devices" in facts["  decode"]


def test_a_model_that_cannot_generate_has_none():
    run = dataclasses.replace(RUN, model=NoExtend())
    with pytest.raises(UserError, match="cannot generate"):
        layout_facts(run, 8, 1, Workload())
