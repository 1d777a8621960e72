"""PaLM's optimizer: Adafactor without factoring, which is Adam with parameter scaling.

PaLM (section 5) and T5X's rule with those settings; for each parameter, at step k from 1:

    v      <- beta2 v + (1 - beta2) (g^2 + 1e-30)         beta2 = 1 - k^-0.8
    u      =  g / sqrt(v), divided by max(1, RMS(u) / clipping_threshold)
    m      <- beta1 m + (1 - beta1) lr max(RMS(param), 1e-3) u
    param  <- (1 - lr^2) param - m

g has been clipped to global norm 1. There is no bias correction: beta2 is 0 at k = 1, and the
momentum averages the scaled update. As in T5X, m is computed and applied in float32, whatever dtype
it is stored in. Norm scales that are stored as they act do not decay; those that are stored minus 1
do, toward a scale of 1. optax.adafactor implements a different rule.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from palmscale.optim.interface import Schedule


class AdafactorState(NamedTuple):
    """Both moments have the parameters' shapes, and therefore their shardings."""

    count: jax.Array  # int32 scalar: completed updates
    m: Any
    v: Any  # float32


def scale_by_palm_adafactor(
    *,
    learning_rate: Schedule,
    layer_dims: Any,
    decays: Any,
    beta1: float,
    beta2_exponent: float,
    weight_decay_lr_exponent: float | None,
    clipping_threshold: float | None,
    min_parameter_scale: float,
    momentum_dtype: str,
) -> optax.GradientTransformation:
    """Returns the transformation above; its updates are ready for `optax.apply_updates`.

    Args:
        learning_rate: schedule of the relative rate: 1e-2 moves a weight by 1% of its RMS.
        layer_dims: tree like the parameters: the dim that stacks layers, or -1. The RMS is taken
            per layer, so that stacked and separate layers train identically.
        decays: tree like the parameters: whether weight decay applies.
        beta1: decay rate of the momentum.
        beta2_exponent: beta2 = 1 - k^-beta2_exponent.
        weight_decay_lr_exponent: each step decays weights by lr to this power; None: no decay.
        clipping_threshold: largest RMS of u; None: no clipping. Not specified in the paper.
        min_parameter_scale: lower bound of RMS(param), which lets zero parameters move.
        momentum_dtype: dtype in which m is stored: `float32` or `bfloat16`. Not specified in the
            paper.
    """

    def init(params: Any) -> AdafactorState:
        return AdafactorState(
            count=jnp.zeros((), jnp.int32),
            m=jax.tree.map(lambda p: jnp.zeros(p.shape, momentum_dtype), params),
            v=jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params),
        )

    def update(grads: Any, state: AdafactorState, params: Any) -> tuple[Any, AdafactorState]:
        k = state.count.astype(jnp.float32) + 1.0
        beta2 = 1.0 - k**-beta2_exponent
        lr = learning_rate(state.count)
        decay = 0.0 if weight_decay_lr_exponent is None else lr**weight_decay_lr_exponent

        def second_moment(g, v):
            g = g.astype(jnp.float32)
            return beta2 * v + (1.0 - beta2) * (g * g + 1e-30)

        def momentum(g, m, v, p, layer_dim):
            u = g.astype(jnp.float32) * jax.lax.rsqrt(v)
            if clipping_threshold is not None:
                u /= jnp.maximum(1.0, rms_per_layer(u, layer_dim) / clipping_threshold)
            scale = lr * jnp.maximum(rms_per_layer(p, layer_dim), min_parameter_scale)
            return beta1 * m.astype(jnp.float32) + (1.0 - beta1) * scale * u

        def change(m, p, decays):
            return -m - decay * p if decays else -m

        v = jax.tree.map(second_moment, grads, state.v)
        m = jax.tree.map(momentum, grads, state.m, v, params, layer_dims)
        updates = jax.tree.map(change, m, params, decays)
        stored_m = jax.tree.map(lambda m: m.astype(momentum_dtype), m)
        return updates, AdafactorState(state.count + 1, stored_m, v)

    return optax.GradientTransformation(init, update)


def rms_per_layer(x: jax.Array, layer_dim: int) -> jax.Array:
    """Returns the root mean square of `x`, separately for each layer along `layer_dim`."""
    dims = tuple(dim for dim in range(x.ndim) if dim != layer_dim)
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)), axis=dims, keepdims=True))
