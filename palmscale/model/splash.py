"""Multi-query attention as a TPU kernel: scores never leave the chip's vector memory.

Splash attention is JAX's own Pallas kernel: FlashAttention (Dao 2023, arXiv:2307.08691) without the
blocks that a mask hides. Its backward pass needs the output and one log-sum for each query.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash

# Largest first: fewer, larger matmuls, against more of the diagonal computed in vain.
_BLOCKS = (512, 256, 128)
_LANES = 128  # of a TPU's vector registers


def fits(length: int, dim_head: int) -> bool:
    """Returns whether the kernel takes rows of `length` tokens and heads of size `dim_head`."""
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
    """Returns o_BLHK as `causal_attention` does, of one device's heads and rows.

    Args:
        q_BLHK: L and K are such that `fits`.
        k_BLK: of all heads.
        v_BLK: of all heads.
        segment_BL: which packed document each token is of; None: one a row.
        save_as: the name under which a remat policy may save what the backward pass needs.
        interpret: run it without a TPU, slowly.
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
            use_fused_bwd_kernel=True,  # five matmuls a block in place of seven
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
