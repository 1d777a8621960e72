"""Multi-query attention as a TPU kernel whose scores never leave the chip's vector memory.

Splash attention is JAX's own Pallas kernel: FlashAttention (Dao 2023, arXiv:2307.08691) that skips
fully masked blocks. Its backward pass needs the output and one log-sum-exp per query.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash

# Largest first. Larger blocks mean fewer, larger matmuls, but more masked work on the diagonal.
_BLOCKS = (512, 256, 128)
_LANES = 128  # of a TPU's vector registers


def fits(length: int, dim_head: int) -> bool:
    """Returns whether the kernel supports rows of `length` tokens and heads of size `dim_head`."""
    return length % _BLOCKS[-1] == 0 and dim_head % _LANES == 0


def splash_attention(
    q_BLHK: jax.Array,
    k_BLK: jax.Array,
    v_BLK: jax.Array,
    segment_BL: jax.Array | None = None,
    *,
    save_as: str | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Returns o_BLHK like `causal_attention`, for one device's heads and rows.

    Args:
        q_BLHK: queries; L and K must satisfy `fits`.
        k_BLK: keys, shared by all heads.
        v_BLK: values, shared by all heads.
        segment_BL: id of each token's packed document; None: one document per row.
        save_as: the name under which a remat policy can save the backward pass's inputs.
        interpret: emulate the kernel without a TPU, which is slow.
    """
    _, length, heads, dim_head = q_BLHK.shape
    block = next(size for size in _BLOCKS if length % size == 0)
    kernel = splash.make_splash_mqa_single_device(
        mask=splash.MultiHeadMask([splash.CausalMask((length, length))] * heads),
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            use_fused_bwd_kernel=True,  # five matmuls per block instead of seven
        ),
        residual_checkpoint_name=save_as,
        interpret=interpret,
    )
    q_BHLK = jnp.swapaxes(q_BLHK, 1, 2) * dim_head**-0.5
    if segment_BL is None:
        o_BHLK = jax.vmap(kernel)(q_BHLK, k_BLK, v_BLK)
    else:
        o_BHLK = jax.vmap(kernel)(q_BHLK, k_BLK, v_BLK, splash.SegmentIds(segment_BL, segment_BL))
    return jnp.swapaxes(o_BHLK, 1, 2).astype(q_BLHK.dtype)
