"""The quickstart as README gives it: real text, 985,728 parameters, a 4 x 2 mesh, and a sample."""

import os
import re

import pytest
import tiny_run


def quickstart(tmp_path, **changes):
    arguments = ["train", "--gin_file=configs/runs/quickstart.gin", f"--workdir={tmp_path / 'run'}"]
    changes |= {"CACHE_DIRECTORY": tmp_path / "caches"}
    # Long enough for optimizations to be worth their time: compiled as a user's run is.
    env = os.environ | {"XLA_FLAGS": ""}
    return tiny_run.run(*arguments, *tiny_run.bindings(changes), env=env).stderr


def test_the_quickstart_learns_and_ends_with_a_sample_and_what_to_try_next(tmp_path):
    said = quickstart(tmp_path, TRAIN_STEPS=30, EVAL_SEQUENCES=32)
    assert "985,728 parameters" in said and "data=4 x model=2" in said
    assert re.search(r"A sample:\ndef ", said)
    last = said.rstrip().splitlines()[-1]
    assert "Next: palmscale generate --workdir=" in last and "'--prompt=def '" in last
    metrics = tiny_run.metrics(tmp_path / "run")
    assert metrics[-1]["step"] == 30 and metrics[-1]["eval_bits_per_byte"] < 4.5


@pytest.mark.long
def test_after_four_million_tokens_eval_bits_per_byte_are_below_2_2_and_falling(tmp_path):
    quickstart(tmp_path)
    metrics = tiny_run.metrics(tmp_path / "run")
    assert sum(line["tokens"] for line in metrics) == 1000 * 16 * 256
    bits = [line["eval_bits_per_byte"] for line in metrics if "eval_loss" in line]
    assert len(bits) == 10 and bits[-1] < 2.2 and bits[-1] < bits[-3] < bits[0]
