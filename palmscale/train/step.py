"""The train step: a pure (state, batch) -> (state, metrics), shared by training and planning."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from palmscale import axes
from palmscale.data.stream import Batch
from palmscale.model.interface import variables_of
from palmscale.model.loss import TokenLoss, token_loss
from palmscale.partition.shardings import constrain
from palmscale.train.state import StatePlan, TrainState

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def batch_loss(
    model: nn.Module,
    params: Any,
    batch: Batch,
    *,
    bos_id: int,
    z_loss: float,
    chunk_length: int,
    rngs: Mapping[str, jax.Array] | None = None,
) -> TokenLoss:
    """Returns the summed losses of a batch, for each target given the tokens before it in its row.

    As in T5X, the first input of a row is `bos_id`, and its last token is only a target.
    """
    target_BL = constrain(batch.target_BL, (axes.BATCH, axes.LENGTH))
    input_BL = jnp.pad(target_BL[:, :-1], ((0, 0), (1, 0)), constant_values=bos_id)
    packing = {"segment_BL": batch.segment_BL, "position_BL": batch.position_BL}
    if batch.segment_BL is not None:
        starts_BL = jnp.diff(batch.segment_BL, axis=1, prepend=-1) != 0
        input_BL = jnp.where(starts_BL, bos_id, input_BL)
    given = {name: value for name, value in packing.items() if value is not None}
    variables = variables_of(params)
    x_BLD = model.apply(variables, input_BL, rngs=rngs, method="hidden", **given)
    return token_loss(
        lambda x_BCD: model.apply(variables, x_BCD, method="unembed"),
        x_BLD,
        target_BL,
        token_weights(batch),
        z_loss=z_loss,
        chunk_length=chunk_length,
    )


def make_train_step(
    *,
    model: nn.Module,
    plan: StatePlan,
    bos_id: int,
    seed: int,
    z_loss: float,
    loss_chunk_length: int,
    gradient_accumulation_steps: int = 1,
    edit_gradients: Callable[[Any], Any] = lambda grads: grads,
) -> TrainStep:
    """Returns the step, not compiled yet; jit it with the state donated.

    If the loss or a gradient is not finite, the step keeps the old parameters and optimizer state
    and sets the metric `skipped` to 1. Losses are means per token of the batch, norms those of the
    parameters that train; all metrics are float32 scalars.

    Args:
        model: a module with `hidden` and `unembed`.
        plan: the state plan; its transformation is the optimizer.
        bos_id: id before the first token of a row or segment.
        seed: the run's seed; randomness is a function of it and the step.
        z_loss: coefficient of log(Z)^2.
        loss_chunk_length: number of positions whose logits exist at a time.
        gradient_accumulation_steps: number of parts of the batch whose gradients are computed one
            after another and summed.
        edit_gradients: applied to the mean gradients before they are used.
    """

    def objective(
        trained: Any, params: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, TokenLoss]:
        loss = batch_loss(
            model,
            plan.trainable.joined(trained, params),
            batch,
            bos_id=bos_id,
            z_loss=z_loss,
            chunk_length=loss_chunk_length,
            rngs={"dropout": key},
        )
        return loss.objective, loss

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        trained = plan.trainable.part(state.params)
        gradients = functools.partial(jax.grad(objective, has_aux=True), trained, state.params)
        grads, loss = sum_over_parts(gradients, batch, key, gradient_accumulation_steps)
        tokens = jnp.sum(token_weights(batch))
        grads, loss = jax.tree.map(lambda a: a / jnp.maximum(tokens, 1.0), (grads, loss))
        grads = edit_gradients(grads)
        grad_norm = optax.tree.norm(grads)
        updates, optimizer_state = plan.transformation.update(
            grads, state.optimizer_state, trained, value=loss.objective
        )
        new_trained = optax.apply_updates(trained, updates)
        ok = jnp.isfinite(loss.objective) & jnp.isfinite(grad_norm)

        def keep_old_unless_ok(new, old):
            return jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)

        new = TrainState(
            step=state.step + 1,
            params=plan.trainable.joined(keep_old_unless_ok(new_trained, trained), state.params),
            optimizer_state=keep_old_unless_ok(optimizer_state, state.optimizer_state),
        )
        metrics = {
            "loss": loss.cross_entropy,
            "z_loss": loss.z_loss,
            "accuracy": loss.correct,
            "grad_norm": grad_norm,
            "param_norm": optax.tree.norm(plan.trainable.part(new.params)),
            "update_norm": optax.tree.norm(updates),
            "tokens": tokens,
            "skipped": 1.0 - ok,
        }
        return new, metrics

    return train_step


def sum_over_parts(
    compute: Callable[[Batch, jax.Array], Any], batch: Batch, key: jax.Array, parts: int
) -> Any:
    """Returns the sum of `compute(part, key)` over `parts` parts of a batch, one after another.

    With one part, this is `compute(batch, key)`. Only one part's activations exist at a time.
    """
    if parts == 1:
        return compute(batch, key)

    def add(total, part_and_key):
        return jax.tree.map(jnp.add, total, compute(*part_and_key)), None

    batches = jax.tree.map(lambda a: split_rows(a, parts), batch)
    shapes = jax.eval_shape(lambda: compute(jax.tree.map(lambda a: a[0], batches), key))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, nothing, (batches, jax.random.split(key, parts)))[0]


def split_rows(a_B: jax.Array, parts: int) -> jax.Array:
    """Returns [B, ...] as [parts, B / parts, ...], where part i has the rows i, i + parts, ...

    A device holds consecutive rows, so it holds a share of every part: no device is idle, and no
    row moves to another device.
    """
    a = a_B.reshape(a_B.shape[0] // parts, parts, *a_B.shape[1:])
    return jnp.moveaxis(a, 1, 0)


def token_weights(batch: Batch) -> jax.Array:
    """Returns float32 weight_BL; 1 for every token if the batch has no weights."""
    if batch.weight_BL is None:
        return jnp.ones(batch.target_BL.shape, jnp.float32)
    return batch.weight_BL.astype(jnp.float32)
