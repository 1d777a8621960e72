"""The plans of generation beside the paper's figures, and their table in docs/planning.md."""

import json
import pathlib
import sys

import pytest

CHECKOUT = pathlib.Path(__file__).parents[3]
sys.path.insert(0, str(CHECKOUT / "benchmarks"))
import plan_generation  # noqa: E402


def test_the_pages_table_is_what_the_stored_results_say():
    text = plan_generation.PAGE.read_text()
    assert plan_generation.written(text) == text, "run: python benchmarks/plan_generation.py"


def test_each_stored_row_is_one_of_the_table():
    names = {row.name for row in plan_generation.rows()}
    stored = json.loads(plan_generation.STORED.read_text())["rows"]
    assert stored and set(stored) <= names


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("model", ["8B", "62B", "540B"])
def test_each_model_and_phase_has_three_batches(model, phase):
    found = {
        row.sequences for row in plan_generation.rows() if (row.model, row.phase) == (model, phase)
    }
    assert {1, 64, 512} <= found


def test_the_error_is_of_the_middle_of_the_bounds():
    row = {"published_seconds": 0.2, "seconds": [0.1, 0.2]}
    assert plan_generation.error(row) == "-25%"
    assert plan_generation.error(row | {"published_seconds": None}) == ""
    assert plan_generation.between([0.01, 0.02], 1e3, ",.1f") == "10.0 to 20.0"
    assert plan_generation.between([0.01, 0.01], 1e3, ",.1f") == "10.0"
