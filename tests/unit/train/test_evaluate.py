"""Held-out loss: a mean per token that padding cannot move, and bits a byte of the text."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tiny_training import BOS, LENGTH, MODEL, targets

from palmscale.data.stream import Batch
from palmscale.model.loss import TokenLoss
from palmscale.train.evaluate import HeldOutLoss, combine, evaluate, make_eval_step

ROWS = 4


def batch(target_BL, weight_BL):
    return Batch(target_BL=jnp.asarray(target_BL), weight_BL=jnp.asarray(weight_BL, jnp.float32))


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


@pytest.fixture(scope="module")
def eval_step():
    model = MODEL.clone(dropout=0.5)  # which must not act here
    return make_eval_step(model=model, bos_id=BOS, loss_chunk_length=LENGTH)


def test_the_loss_is_that_of_whole_logits_with_no_dropout_and_no_z_loss(params, eval_step):
    target_BL = targets(ROWS)
    input_BL = np.pad(target_BL[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
    logits_BLV = np.float64(jax.jit(MODEL.apply)({"params": params}, input_BL))
    log_p_BLV = logits_BLV - np.log(np.exp(logits_BLV).sum(-1, keepdims=True))
    loss = -np.take_along_axis(log_p_BLV, target_BL[..., None], axis=-1).mean()
    found = evaluate(
        eval_step, params, [batch(target_BL, np.ones((ROWS, LENGTH)))], bytes_per_token=1.5
    )
    np.testing.assert_allclose(found["eval_loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(found["eval_bits_per_byte"], loss / math.log(2) / 1.5, rtol=1e-5)
    accuracy = (logits_BLV.argmax(-1) == target_BL).mean()
    np.testing.assert_allclose(found["eval_accuracy"], accuracy)


def test_rows_that_fill_up_a_batch_do_not_count(params, eval_step):
    rows = targets(7)
    padded = np.concatenate([rows, np.zeros((1, LENGTH), np.int32)])
    other = np.concatenate([rows, np.full((1, LENGTH), 9, np.int32)])
    weights = np.repeat((np.arange(8) < 7)[:, None], LENGTH, axis=1)

    def score(rows, weights):
        pairs = zip(np.split(rows, 2), np.split(weights, 2), strict=True)
        return evaluate(eval_step, params, [batch(*pair) for pair in pairs], bytes_per_token=1.0)

    assert score(padded, weights) == score(other, weights)
    assert score(padded, weights) != score(padded, np.ones_like(weights))


def constant_step(params, batch):
    """Each token costs `params` nats; a third are right."""
    tokens = jnp.sum(batch.weight_BL)
    return TokenLoss(tokens * 99, tokens * params, tokens * 99, tokens / 3), tokens


def test_bits_a_byte_are_nats_a_token_over_log_two_and_the_bytes_of_a_token():
    batches = [batch(targets(n), np.ones((n, LENGTH))) for n in (3, 1)]
    found = evaluate(constant_step, 2.0, batches, bytes_per_token=4.0)
    assert found == pytest.approx(
        {
            "eval_loss": 2.0,
            "eval_bits_per_byte": 2.0 / math.log(2) / 4.0,
            "eval_accuracy": 1 / 3,
        }
    )


def test_where_tokens_have_no_weight_there_are_no_bits_a_byte_and_means_are_per_weighted_token():
    half = np.tile([1.0, 0.0], (3, LENGTH // 2))
    found = evaluate(constant_step, 2.0, [batch(targets(3), half)], bytes_per_token=None)
    assert found == pytest.approx({"eval_loss": 2.0, "eval_accuracy": 1 / 3})


def test_each_token_weighs_the_same_in_whichever_batch_it_is():
    def loss_is_number_of_rows(params, batch):
        tokens = jnp.sum(batch.weight_BL)
        return TokenLoss(0.0, tokens * batch.target_BL.shape[0], 0.0, 0.0), tokens

    batches = [batch(targets(n), np.ones((n, LENGTH))) for n in (3, 1)]
    found = evaluate(loss_is_number_of_rows, None, batches, bytes_per_token=1.0)
    assert found["eval_loss"] == (3 * 3 + 1 * 1) / 4


def test_nothing_held_out_is_no_metric():
    nothing = batch(targets(2), np.zeros((2, LENGTH)))
    assert evaluate(constant_step, 2.0, [], bytes_per_token=1.0) == {}
    assert evaluate(constant_step, 2.0, [nothing], bytes_per_token=1.0) == {}


def test_components_are_told_one_by_one_and_as_their_mean_by_weight():
    values = {"a": {"loss": 1.0, "accuracy": 0.5}, "b": {"loss": 4.0, "accuracy": 0.2}}
    assert combine(values, {"a": 50, "b": 25, "c": 25}) == pytest.approx(
        {
            "loss": 2.0,
            "accuracy": 0.4,
            "loss/a": 1.0,
            "loss/b": 4.0,
            "accuracy/a": 0.5,
            "accuracy/b": 0.2,
        }
    )


def test_without_weight_there_is_no_mean_and_without_components_the_metrics_are_as_they_are():
    assert combine({"a": {"loss": 1.0}}, {"a": 0, "b": 1}) == {"loss/a": 1.0}
    assert combine({"": {"loss": 1.0}}, {"": 1}) == {"loss": 1.0}
    assert combine({}, {"": 1}) == {}


class Rows:
    """A held-out split of as many rows."""

    sequence_length, loss_bytes_per_token = LENGTH, 1.0

    def __init__(self, rows):
        self.num_rows, self.rows = rows, targets(max(rows, 1))

    def read(self, numbers):
        return {"target": self.rows[numbers]}


def test_an_evaluation_reads_the_rows_of_each_component_and_beats_before_each_batch(
    params, eval_step
):
    beats = []
    evaluation = HeldOutLoss(
        every_steps=5,
        splits={"a": Rows(6), "b": Rows(3), "empty": Rows(0)},
        weights_at=lambda step: {"a": 1.0, "b": step, "empty": 1.0},
        eval_step=eval_step,
        sharding=NamedSharding(Mesh(np.array(jax.devices()[:1]), ("data",)), PartitionSpec()),
        batch_sequences=4,
        max_sequences=5,
        beat=lambda: beats.append(None),
    )
    found = evaluation(SimpleNamespace(step=3, params=params))
    assert len(beats) == 2 + 1  # five of a's six rows, and three of b's
    mean = (found["eval_loss/a"] + 3 * found["eval_loss/b"]) / 4
    assert found["eval_loss"] == pytest.approx(mean) and "eval_loss/empty" not in found
