"""What a run logs for a comparison: alike for alike, and nothing without a file."""

import json

import jax.numpy as jnp

from palmscale.data.stream import Batch
from palmscale.train.step_log import StepLog


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def batch(first=0):
    return Batch(target_BL=jnp.arange(first, first + 8, dtype=jnp.int32).reshape(2, 4))


def test_equal_batches_have_equal_lines_and_others_do_not(tmp_path):
    path = tmp_path / "seen"
    for seed, content, step in ((0, 0, 3), (0, 0, 3), (0, 1, 3), (1, 0, 3), (0, 0, 4)):
        StepLog(str(path), seed=seed, leads=True).batch(step, batch(content))
    first, again, other, seeded, later = lines(path)
    assert first == again
    assert first["batch"] != other["batch"] and first["key"] == other["key"]
    assert first["key"] != seeded["key"] != later["key"]


def test_a_state_is_known_by_its_fingerprints(tmp_path):
    StepLog(str(tmp_path / "seen"), seed=0, leads=True).state(7, {"params": {"a": jnp.ones(3)}})
    (line,) = lines(tmp_path / "seen")
    assert line["restored"] == 7 and line["arrays"].keys() == {"params/a"}


def test_only_the_process_that_leads_writes(tmp_path):
    StepLog(str(tmp_path / "seen"), seed=0, leads=False).batch(1, batch())
    StepLog(None, seed=0, leads=True).batch(1, batch())
    assert list(tmp_path.iterdir()) == []
