"""What training and evaluation share; both as a person runs them are in test_training.py."""

import pytest

from palmscale.cli import wiring
from palmscale.cli.arguments import parse
from palmscale.errors import UserError


def test_evaluating_what_is_no_run_says_what_is_missing(tmp_path):
    args = parse(["eval", f"--workdir={tmp_path}"])
    with pytest.raises(UserError, match=r"no run in .* \(config.gin is missing\)"):
        wiring.evaluate(args)


def test_each_batch_of_an_evaluation_shows_that_the_process_moves():
    beats = []
    batches = wiring._each(iter("abc"), lambda: beats.append(len(beats)))
    assert next(batches) == "a" and beats == [0]
    assert list(batches) == ["b", "c"] and beats == [0, 1, 2]
