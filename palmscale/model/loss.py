"""Cross entropy with z-loss, in chunks along the sequence, so that full logits never exist.

With PaLM's 256,000 tokens, the logits of one sequence of 2,048 take 2 GB. In a single pass, each
chunk's logits are computed, turned into the loss and its gradient, and freed.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class TokenLoss:
    """Weighted sums over the tokens of a batch.

    Attributes:
        objective: the loss to minimize, cross_entropy + z_loss. The only field with a gradient.
        cross_entropy: -log p(target), in nats.
        z_loss: coefficient * log(Z)^2 (section 5 of the paper: 1e-4).
        correct: tokens whose most likely prediction is the target.
    """

    objective: jax.Array
    cross_entropy: jax.Array
    z_loss: jax.Array
    correct: jax.Array


def token_loss(
    unembed: Callable[[jax.Array], jax.Array],
    x_BLD: jax.Array,
    target_BL: jax.Array,
    weight_BL: jax.Array,
    *,
    z_loss: float,
    chunk_length: int,
) -> TokenLoss:
    """Returns the summed losses of `unembed(x_BLD)` against the targets.

    Args:
        unembed: x_BLD -> float32 logits_BLV, for any L. May close over parameters; the parameters
            that it reads get gradients too.
        x_BLD: output of `hidden`.
        target_BL: int32 ids.
        weight_BL: float32; 0 excludes a token.
        z_loss: coefficient, at least 0.
        chunk_length: number of positions whose logits exist at a time; the last chunk may be
            shorter.
    """
    length = x_BLD.shape[1]
    whole = length // chunk_length * chunk_length
    total = no_loss()
    for start, stop, chunk in ((0, whole, chunk_length), (whole, length, length - whole)):
        if start < stop:
            x, target, weight = (a[:, start:stop] for a in (x_BLD, target_BL, weight_BL))
            # Variables that `unembed` closes over become arguments, so the gradient rule sees them.
            example = jax.ShapeDtypeStruct((x.shape[0], chunk, x.shape[2]), x.dtype)
            function, params = jax.closure_convert(unembed, example)
            part = _chunked_loss(function, z_loss, chunk, x, params, target, weight)
            total = jax.tree.map(jnp.add, total, part)
    return total


def no_loss() -> TokenLoss:
    """Returns the loss of zero tokens, as the start of a sum."""
    return TokenLoss(*[jnp.zeros((), jnp.float32)] * 4)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _chunked_loss(unembed, z_loss, length, x_BLD, params, target_BL, weight_BL):
    def add_chunk(total, chunk):
        x_BCD, target_BC, weight_BC = chunk
        part, _ = _chunk_loss(unembed(x_BCD, *params), target_BC, weight_BC, z_loss)
        return jax.tree.map(jnp.add, total, part), None

    chunks = _split((x_BLD, target_BL, weight_BL), length)
    total, _ = jax.lax.scan(add_chunk, no_loss(), chunks)
    return total


def _forward(unembed, z_loss, length, x_BLD, params, target_BL, weight_BL):
    """Computes the gradient here, chunk by chunk, so that logits are computed only once."""

    def add_chunk(carry, chunk):
        total, dparams = carry
        x_BCD, target_BC, weight_BC = chunk
        logits_BCV, pull_back = jax.vjp(unembed, x_BCD, *params)
        part, dlogits_BCV = _chunk_loss(logits_BCV, target_BC, weight_BC, z_loss)
        dx_BCD, *dchunk = pull_back(dlogits_BCV)
        carry = jax.tree.map(jnp.add, (total, dparams), (part, dchunk))
        return carry, dx_BCD

    chunks = _split((x_BLD, target_BL, weight_BL), length)
    start = (no_loss(), [jnp.zeros_like(param) for param in params])
    (total, dparams), dx_nBCD = jax.lax.scan(add_chunk, start, chunks)
    return total, (_join(dx_nBCD), dparams)


def _backward(unembed, z_loss, length, saved, g):
    dx_BLD, dparams = jax.tree.map(lambda d: (d * g.objective).astype(d.dtype), saved)
    return dx_BLD, dparams, None, None


_chunked_loss.defvjp(_forward, _backward)


def _chunk_loss(logits_BCV, target_BC, weight_BC, z_loss):
    """Returns the chunk's TokenLoss and the gradient of its objective w.r.t. the logits."""
    log_z_BC = jax.nn.logsumexp(logits_BCV, axis=-1)
    is_target_BCV = jnp.arange(logits_BCV.shape[-1]) == target_BC[:, :, None]
    target_logit_BC = jnp.sum(jnp.where(is_target_BCV, logits_BCV, 0.0), axis=-1)
    cross_entropy = jnp.sum(weight_BC * (log_z_BC - target_logit_BC))
    z_term = jnp.sum(weight_BC * z_loss * log_z_BC**2)
    correct = jnp.sum(weight_BC * (jnp.argmax(logits_BCV, axis=-1) == target_BC))
    p_BCV = jnp.exp(logits_BCV - log_z_BC[:, :, None])
    pull_BC1 = (1 + 2 * z_loss * log_z_BC)[:, :, None]
    dlogits_BCV = weight_BC[:, :, None] * (p_BCV * pull_BC1 - is_target_BCV)
    return TokenLoss(cross_entropy + z_term, cross_entropy, z_term, correct), dlogits_BCV


def _split(arrays, length):
    """[B, L, ...] -> [L / length, B, length, ...]: B stays one dim, so its sharding is kept."""

    def one(a):
        shape = (a.shape[0], a.shape[1] // length, length, *a.shape[2:])
        return jnp.moveaxis(a.reshape(shape), 1, 0)

    return jax.tree.map(one, arrays)


def _join(a):
    """[L / length, B, length, D] -> [B, L, D]."""
    a = jnp.moveaxis(a, 0, 1)
    return a.reshape(a.shape[0], -1, a.shape[-1])
