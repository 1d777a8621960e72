"""Held-out loss: nats a token, and bits a byte of the text, which no vocabulary can flatter."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from palmscale.data.stream import Batch
from palmscale.model.loss import TokenLoss
from palmscale.train.step import batch_loss, token_weights

EvalStep = Callable[[Any, Batch], tuple[TokenLoss, jax.Array]]


def make_eval_step(*, model: nn.Module, bos_id: int, loss_chunk_length: int) -> EvalStep:
    """Returns (params, batch) -> (summed losses, summed weights), compiled on first use."""

    def eval_step(params: Any, batch: Batch) -> tuple[TokenLoss, jax.Array]:
        loss = batch_loss(
            model, params, batch, bos_id=bos_id, z_loss=0.0, chunk_length=loss_chunk_length
        )
        return loss, jnp.sum(token_weights(batch))

    return jax.jit(eval_step)


def evaluate(
    eval_step: EvalStep, params: Any, batches: Iterable[Batch], *, bytes_per_token: float | None
) -> dict[str, float]:
    """Returns `held_out_loss` (nats a token), `held_out_bits_per_byte` and `held_out_accuracy`.

    Sums are taken on the host in float64, in the order of the batches, over tokens with weight.
    Empty without batches. `bytes_per_token` is None, and there are no bits per byte, where tokens
    without weight make the bytes of the others unknown.
    """
    cross_entropy = correct = tokens = 0.0
    for batch in batches:
        # Read at once: with one step in flight, simulated devices cannot block one another.
        loss, weight = jax.device_get(eval_step(params, batch))
        cross_entropy += float(loss.cross_entropy)
        correct += float(loss.correct)
        tokens += float(weight)
    if not tokens:
        return {}
    values = {"held_out_loss": cross_entropy / tokens}
    if bytes_per_token is not None:
        values["held_out_bits_per_byte"] = values["held_out_loss"] / math.log(2) / bytes_per_token
    return values | {"held_out_accuracy": correct / tokens}


def combine(
    values: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]
) -> dict[str, float]:
    """Returns the metrics of components: each as `metric/component`, their mean as `metric`.

    The mean is by the weights of the components that `values` has; without weight there is none.
    Of a single component without a name, its metrics as they are.
    """
    if set(values) == {""}:
        return dict(values[""])
    each = {f"{metric}/{name}": x for name, own in values.items() for metric, x in own.items()}
    total = sum(weights[name] for name in values)
    mean: dict[str, float] = {}
    for name, own in values.items() if total else ():
        for metric, value in own.items():
            mean[metric] = mean.get(metric, 0.0) + value * weights[name] / total
    return mean | each
