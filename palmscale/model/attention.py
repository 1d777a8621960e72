"""Multi-query attention, rotary positions, and the contraction that every matmul uses."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from palmscale import axes
from palmscale.model import splash
from palmscale.model.adapted import is_adapted, split_dims
from palmscale.model.remat import ATTENTION, save_as
from palmscale.partition.shardings import constrain, map_shards

# Finite, so that the softmax of a fully masked row is uniform rather than NaN.
MASKED_LOGIT = -1e10
# Keeps the largest factor in float32's range: (1.4 / 0.4) ^ (32,768 / 512) is 7e34.
XPOS_MOST_POSITIONS = 32_768
# Of all devices; fewer are computed at once, since a loop in each layer takes long to compile.
_MOST_SCORES = 2**30


@struct.dataclass
class Cache:
    """The keys and values of every layer so far; `length` of the S positions are filled.

    Keys and values are one array for all layers, or, where the layers' weights lie apart as well, a
    tuple of N arrays [B, S, K]: `k_NBSK[n]` is layer n either way.

    `length` is int32, [] for all sequences or [B] for each its own.
    """

    k_NBSK: jax.Array | tuple[jax.Array, ...]
    v_NBSK: jax.Array | tuple[jax.Array, ...]
    length: jax.Array


def contract(
    spec: str, x: jax.Array, w: Any, dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """Returns the einsum of `x` and `w`, computed in `x`'s dtype, as `dtype`.

    The matrix unit accumulates in float32. If the summed dim is sharded over several devices, their
    partial sums are exchanged and added in `dtype`, and those of gradients in `x`'s dtype; the
    gradient of `w` is then cast to `w`'s dtype. The incoming gradient is cast to `x`'s dtype too,
    so that with bfloat16 all three matmuls of a step run at full speed.

    `w` may have an adapter, be an `Adapted`, whose product is added. In generation it may be
    quantized, a `qwix.QArray`, which has no gradient.
    """
    if not is_adapted(w):
        return _product(spec, x, w, dtype)
    inputs, output = spec.split("->")
    left, right = inputs.split(",")
    summed, others = split_dims(right, w.summed)
    low = "".join(letter for letter in left if letter not in summed) + "R"
    x_low = w.scale * _product(f"{left},{summed}R->{low}", x, w.down, x.dtype)
    return _product(spec, x, w.kernel, dtype) + _product(
        f"{low},R{others}->{output}", x_low, w.up, dtype
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _product(spec: str, x: jax.Array, w: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    return _einsum(spec, x, dense(w, x.dtype), dtype)


def dense(w: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns a weight as `dtype`: an array, a `qwix.QArray` times its scales, or an `Adapted`."""
    if is_adapted(w):
        return dense(w.kernel, dtype) + w.change().astype(dtype)
    w = w.astype(dtype)  # of a quantized weight: its scales
    if not hasattr(w, "qvalue"):
        return w
    import qwix  # an optional package, which whoever quantized the weight has

    # The scales are applied before the product and not after it, as in qwix.einsum: XLA then fuses
    # both with the product, and on a TPU no copy of the weight exists (unless the scales are of
    # tiles; measured by compiling for v5e).
    return qwix.dequantize(w)


def _forward(spec, x, w, dtype):
    w_trains = any(primal.perturbed for primal in jax.tree.leaves(w))
    x, w = jax.tree.map(lambda primal: primal.value, (x, w))
    # A frozen weight needs no gradient, and its `x` is not saved for one: only its dtype is.
    return _product(spec, x, w, dtype), (x if w_trains else jnp.zeros(0, x.dtype), w)


def _backward(spec, dtype, saved, g):
    x, w = saved
    inputs, output = spec.split("->")
    left, right = inputs.split(",")
    g = g.astype(x.dtype)
    dx = _einsum(f"{output},{right}->{left}", g, dense(w, x.dtype), x.dtype)
    if not x.size:
        return dx, None
    dw = _einsum(f"{left},{output}->{right}", x, g, x.dtype, w.dtype)
    return dx, dw


def _einsum(spec, a, b, dtype, result_dtype=None):
    """Returns the einsum with float32 accumulation; sums over devices are added in `dtype`.

    The result is cast to `result_dtype`, or to `dtype` if it is None.
    """
    result_dtype = result_dtype or dtype

    def rounded_once(a, b):
        return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32).astype(result_dtype)

    def rounded_inside(a, b):
        return jnp.einsum(spec, a, b, preferred_element_type=dtype).astype(result_dtype)

    if dtype == jnp.float32:
        return rounded_once(a, b)
    # If XLA rounds inside the matmul, partial sums are exchanged in the smaller dtype. Its CPU
    # backend would run such a matmul in float32, which takes twice as long.
    return jax.lax.platform_dependent(a, b, cpu=rounded_once, default=rounded_inside)


_product.defvjp(_forward, _backward, symbolic_zeros=True)


def rotate(x_BLHK: jax.Array, position_BL: jax.Array, *, xpos: int = 0) -> jax.Array:
    """Returns `x` with pair i (dims i and i + K/2) rotated by position * 10000^(-2i/K) radians.

    RoPE (Su et al. 2021) over the whole head. Angles are float32: bfloat16 rounds 257 to 256.

    Args:
        x_BLHK: queries or keys.
        position_BL: of each token, from 0.
        xpos: 1 for the queries and -1 for the keys of xPos; 0: RoPE alone. See `xpos_scale`.
    """
    half = x_BLHK.shape[-1] // 2
    frequency_K = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_BL1K = position_BL[:, :, None, None].astype(jnp.float32) * frequency_K
    cos, sin = jnp.cos(angle_BL1K), jnp.sin(angle_BL1K)
    if xpos:
        scale_BL1K = xpos_scale(position_BL, half, xpos)[:, :, None]
        cos, sin = cos * scale_BL1K, sin * scale_BL1K
    a, b = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x_BLHK.dtype)


def xpos_scale(position_BL: jax.Array, pairs: int, power: int) -> jax.Array:
    """Returns zeta_i ^ (power * position / 512) [B, L, pairs], the factor of pair i in xPos.

    Queries have power 1 and keys -1 (Sun et al. 2022, arXiv:2212.10554), so that pair i of their
    product decays by zeta_i^(distance / 512), where zeta_i = (i / pairs + 0.4) / 1.4. Only the
    distance counts: positions from 0 give the same as those from the middle of a sequence.
    """
    log_zeta_K = jnp.log((jnp.arange(pairs, dtype=jnp.float32) / pairs + 0.4) / 1.4)
    return jnp.exp(position_BL[:, :, None].astype(jnp.float32) * (power / 512) * log_zeta_K)


def attend(
    q_BLHK: jax.Array, k_BSK: jax.Array, v_BSK: jax.Array, visible_BLS: jax.Array
) -> jax.Array:
    """Returns o_BLHK: all heads share one key and value head (Shazeer 2019); float32 softmax.

    Scores are [B, L, H, S], with heads next to positions, so that each product is a single matmul
    per sequence without a transpose.
    """
    score_BLHS = contract("blhk,bsk->blhs", q_BLHK, k_BSK) * q_BLHK.shape[-1] ** -0.5
    score_BLHS = jnp.where(visible_BLS[:, :, None], score_BLHS, MASKED_LOGIT)
    weight_BLHS = jax.nn.softmax(score_BLHS).astype(v_BSK.dtype)
    return contract("blhs,bsk->blhk", weight_BLHS, v_BSK, q_BLHK.dtype)


def cached_attention(
    q_BLHK: jax.Array,
    k_BSK: jax.Array,
    v_BSK: jax.Array,
    position_BL: jax.Array,
    *,
    query_chunk: int,
) -> jax.Array:
    """Returns o_BLHK, where a query at a position sees the cache up to that position.

    The cache has one head, so that it is split over sequences and not over heads; so are the
    queries while they meet it (Pope et al. 2022, section 3.3). Many long prompts meet it
    `query_chunk` queries at a time, if these divide L, so that the scores of all never exist.
    """
    names = (axes.CACHE_BATCH, axes.LENGTH, axes.CACHE_HEADS, None)

    def attention(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
        q_BLHK, position_BL = chunk
        visible_BLS = jnp.arange(k_BSK.shape[1]) <= position_BL[:, :, None]
        return constrain(attend(constrain(q_BLHK, names), k_BSK, v_BSK, visible_BLS), names)

    B, L, H, _ = q_BLHK.shape
    chunks, rest = divmod(L, query_chunk)
    if B * L * H * k_BSK.shape[1] > _MOST_SCORES and chunks > 1 and not rest:
        o_BLHK = _in_chunks(attention, (constrain(q_BLHK, names), position_BL), chunks)
    else:
        o_BLHK = attention((q_BLHK, position_BL))
    # In two steps: heads move to their devices, and are then gathered where these hold more
    # sequences. In one, all heads of all sequences would be gathered.
    o_BLHK = constrain(o_BLHK, (axes.HEADS_BATCH, axes.LENGTH, axes.ACT_HEADS, axes.ACT_KV))
    return constrain(o_BLHK, (axes.BATCH, axes.LENGTH, axes.ACT_HEADS, axes.ACT_KV))


def _in_chunks(
    function: Callable[[Any], jax.Array], arrays_BL: tuple[jax.Array, ...], chunks: int
) -> jax.Array:
    """Returns a function of [B, L, ...] arrays, computed for one chunk of L after another."""

    def cut(x_BL: jax.Array) -> jax.Array:
        B, L, *rest = x_BL.shape
        return jnp.moveaxis(x_BL.reshape(B, chunks, L // chunks, *rest), 1, 0)

    o_CBL = jax.lax.map(function, tuple(map(cut, arrays_BL)))
    C, B, L, *rest = o_CBL.shape
    return jnp.moveaxis(o_CBL, 0, 1).reshape(B, C * L, *rest)


def write_at(cache_BSK: jax.Array, new_BLK: jax.Array, position_BL: jax.Array) -> jax.Array:
    """Returns a layer's cache with L new keys or values; those past its end are dropped."""
    new_BLK = constrain(new_BLK.astype(cache_BSK.dtype), (axes.CACHE_BATCH, axes.LENGTH, None))

    def write(cache_SK, new_LK, position_L):
        return cache_SK.at[position_L].set(new_LK, mode="drop", unique_indices=True)

    return jax.vmap(write)(cache_BSK, new_BLK, position_BL)


def self_attention(
    q_BLHK: jax.Array,
    k_BLK: jax.Array,
    v_BLK: jax.Array,
    *,
    segment_BL: jax.Array | None,
    query_chunk: int,
) -> jax.Array:
    """Returns `causal_attention`, computed by a kernel on TPUs if the shapes allow it."""

    def plain(q_BLHK, k_BLK, v_BLK, segment_BL=None):
        o_BLHK = causal_attention(
            q_BLHK, k_BLK, v_BLK, segment_BL=segment_BL, query_chunk=query_chunk
        )
        return save_as(ATTENTION, o_BLHK)

    attention = plain
    packed = () if segment_BL is None else (segment_BL,)
    if splash.fits(q_BLHK.shape[1], q_BLHK.shape[3]):
        heads = (axes.BATCH, axes.LENGTH, axes.ACT_HEADS, axes.ACT_KV)
        shared = (axes.BATCH, axes.LENGTH, axes.ACT_KV)
        attention = map_shards(
            functools.partial(splash.splash_attention, save_as=ATTENTION),
            plain,
            platform="tpu",
            inputs=(heads, shared, shared, (axes.BATCH, axes.LENGTH))[: 3 + len(packed)],
            output=heads,
        )
    return attention(q_BLHK, k_BLK, v_BLK, *packed)


def causal_attention(
    q_BLHK: jax.Array,
    k_BLK: jax.Array,
    v_BLK: jax.Array,
    *,
    segment_BL: jax.Array | None,
    query_chunk: int,
) -> jax.Array:
    """Returns o_BLHK, where each position attends to itself and earlier ones in its own segment.

    `query_chunk` queries at a time are compared with the keys up to the end of their chunk, so most
    of the upper triangle is never computed, and the full [B, L, H, L] scores never exist.
    """
    length = q_BLHK.shape[1]
    outputs = []
    for start in range(0, length, query_chunk):
        stop = min(start + query_chunk, length)
        visible_BLS = (jnp.arange(start, stop)[:, None] >= jnp.arange(stop))[None]
        if segment_BL is not None:
            visible_BLS &= segment_BL[:, start:stop, None] == segment_BL[:, None, :stop]
        outputs.append(attend(q_BLHK[:, start:stop], k_BLK[:, :stop], v_BLK[:, :stop], visible_BLS))
    return jnp.concatenate(outputs, axis=1)
