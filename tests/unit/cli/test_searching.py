import argparse
import dataclasses

import pytest

from palmscale.cli import gin_config, searching
from palmscale.cli.run import load_run
from palmscale.cli.searching import Tried, base_choice, shape_of
from palmscale.errors import UserError
from palmscale.plan.choices import Choice
from palmscale.plan.topology import parse

WHERE = parse("v5e-4")
BASE = Choice(data=2, model=2, microbatches=1, loss_chunk_length=128, remat="full")
OTHER = dataclasses.replace(BASE, microbatches=2)


@pytest.fixture
def run():
    yield load_run(["configs/recipes/cpu_1m.gin"],
                   ("DATA=2", "MODEL_PARALLEL=2", "SIMULATED_DEVICES=None"))  # fmt: skip
    gin_config.reset()


def plan(seconds, fits=True):
    end = {"step_seconds": seconds, "mfu": 0.5}
    return {
        "fits": fits,
        "memory": {"needed_bytes": 2**30, "offered_bytes": 2**31},
        "compute": {"cycles": 7},
        "collective_bytes": {"all-reduce over data, synchronous": 2**30,
                             "all-gather over data, asynchronous": 2**31},
        "prediction": seconds and {"at_best": end, "if_nothing_overlaps": end},
    }  # fmt: skip


def test_the_choice_that_a_run_makes_is_read_from_it(run):
    base = base_choice(run, WHERE)
    assert (base.data, base.model, base.residual, base.vocabulary) == (2, 2, "embed", "model")
    assert base.remat == run.model.remat and base.microbatches == run.microbatches


def test_the_arithmetic_knows_the_models_shape(run):
    shape = shape_of(run, WHERE, WHERE.describe(), 16)
    assert (shape.width, shape.layers, shape.devices) == (run.model.dim, run.model.depth, 4)
    assert shape.offered_bytes == int(15.75 * 2**30)
    assert min(shape.ways(1, 2, 2)) > 0 and shape.stages == (16,)


def test_a_module_of_another_kind_is_refused(run):
    other = dataclasses.replace(run)
    object.__setattr__(other, "model", object())
    with pytest.raises(UserError, match="object has no dim, heads, dim_head, depth"):
        shape_of(other, WHERE, WHERE.describe(), 16)


def test_what_fits_and_is_fastest_ranks_first_and_a_failure_last():
    tried = [
        Tried(choice=OTHER, settings={}, plan=None, error="palmscale: error: no"),
        Tried(choice=OTHER, settings={}, plan=plan(2.0)),
        Tried(choice=OTHER, settings={}, plan=plan(0.5, fits=False)),
        Tried(choice=OTHER, settings={}, plan=plan(1.0)),
    ]
    ranks = [one.rank for one in sorted(tried, key=lambda one: one.rank)]
    assert ranks == [1.0, 2.0, float("inf"), float("inf")]
    assert Tried(choice=OTHER, settings={}, plan=plan(None)).rank == 7  # no clock: cycles


def test_rows_tell_settings_memory_waits_and_why_not():
    rows = searching._rows([
        Tried(choice=OTHER, settings={"MICROBATCHES": "2"}, plan=plan(1.0)),
        Tried(choice=OTHER, settings={}, plan=None, error="palmscale: error: no such thing"),
    ])[1]  # fmt: skip
    assert rows[0] == ["1.00", "0.000", "1.0", "1.00 to 1.00", "50.0% to 50.0%", "MICROBATCHES=2"]
    assert rows[1] == ["", "", "", "", "", "as it is: no such thing"]


def test_the_gin_file_says_why_and_binds_what_was_found():
    args = argparse.Namespace(
        gin_file=["configs/recipes/cpu_1m.gin"], gin_bindings=["DATA=2", "palm.PaLM.depth=4"]
    )
    was = Tried(choice=BASE, settings={}, plan=plan(2.0))
    best = Tried(choice=OTHER, settings={"MICROBATCHES": "2"}, plan=plan(1.0))
    lines = searching._gin_text(args, WHERE, 16, best, [best, was]).splitlines()
    assert lines[0].startswith("# Found by a search of layouts on v5e:2x2, 16 sequences a step")
    assert lines[1] == "# The run as it was, predicted 2.00 to 2.00 s a step."
    assert "palm.PaLM.depth='4'" in lines[2]
    assert lines[-4:] == ["DATA = 2", "TOPOLOGY = 'v5e:2x2'", "SLICES = 1", "MICROBATCHES = 2"]
