import dataclasses

import pytest

from palmscale.data.stream import BatchSchedule
from palmscale.errors import UserError
from palmscale.train.training import Training

TRAINING = Training(
    steps=200, batch_schedule=BatchSchedule(((0, 8), (100, 16))), z_loss=1e-4, seed=0
)


@pytest.mark.parametrize(
    "field", ["steps", "gradient_accumulation_steps", "loss_chunk_length", "rates_every_steps"]
)
def test_counts_are_at_least_one(field):
    with pytest.raises(UserError, match=f"Training.{field}=0 must be at least 1"):
        dataclasses.replace(TRAINING, **{field: 0})


@pytest.mark.parametrize("field", ["eval_every_steps", "check_every_steps"])
def test_a_period_is_at_least_one_step_or_none(field):
    dataclasses.replace(TRAINING, **{field: None})
    with pytest.raises(UserError, match=f"Training.{field}=0 must be at least 1, or None"):
        dataclasses.replace(TRAINING, **{field: 0})


def test_the_rows_of_an_evaluation_are_none_or_more():
    assert dataclasses.replace(TRAINING, eval_sequences=0).eval_sequences == 0
    with pytest.raises(UserError, match="Training.eval_sequences=-1"):
        dataclasses.replace(TRAINING, eval_sequences=-1)


@pytest.mark.parametrize("ranges", [((5, 5),), ((0, 9), (8, 12)), ((-1, 4),)])
def test_skipped_rows_are_ranges_in_order(ranges):
    with pytest.raises(UserError, match=r"Training.skip_rows=.*for example \(\(4800, 9600\),\)"):
        dataclasses.replace(TRAINING, skip_rows=ranges)


def test_a_batch_divides_over_devices_and_accumulation_steps():
    TRAINING.check_batches(8)
    with pytest.raises(UserError, match="of 8 sequences .BatchSchedule.stages. .*multiple of 16"):
        dataclasses.replace(TRAINING, gradient_accumulation_steps=2).check_batches(8)
    with pytest.raises(UserError, match="over 3 data-parallel devices"):
        TRAINING.check_batches(3)


def test_a_seed_that_would_repeat_another_is_refused():
    """JAX keeps 32 bits: 2^32 would be the seed 0."""
    for seed in -1, 2**32 - 1:
        assert dataclasses.replace(TRAINING, seed=seed).seed == seed
    for seed in -(2**31) - 1, 2**32, 2**63:
        with pytest.raises(UserError, match=f"Training.seed={seed} is out of range; use -2147483"):
            dataclasses.replace(TRAINING, seed=seed)
