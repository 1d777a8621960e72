"""A Llama of Flax's own layers, nn.DenseGeneral or nn.MultiHeadDotProductAttention, to train.

RMSNorm, rotary positions and grouped queries in the first; the attention layer of Flax in the
second. Each names the dims of its parameters as they are used: [D, H, K] for a projection to heads.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

NORMAL = nn.initializers.normal(0.02)


def named(*names):
    return nn.with_logical_partitioning(NORMAL, names)


class RMSNorm(nn.Module):
    @nn.compact
    def __call__(self, x_BLD):
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
        scale = self.param("scale", ones, (x_BLD.shape[-1],))
        return x_BLD * jax.lax.rsqrt(jnp.mean(x_BLD**2, -1, keepdims=True) + 1e-6) * scale


def rotate(x_BLHK):
    half = x_BLHK.shape[-1] // 2
    frequency_K = 10_000.0 ** (-jnp.arange(half) / half)
    angle_L1K = jnp.arange(x_BLHK.shape[1])[:, None, None] * frequency_K
    cos, sin = jnp.cos(angle_L1K), jnp.sin(angle_L1K)
    a, b = jnp.split(x_BLHK, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


class GroupedAttention(nn.Module):
    heads: int
    kv_heads: int

    @nn.compact
    def __call__(self, x_BLD):
        B, L, D = x_BLD.shape
        K, shared = D // self.heads, self.heads // self.kv_heads

        def heads(name, count, axis):
            kernel = named("embed", axis, "kv")
            return nn.DenseGeneral((count, K), kernel_init=kernel, use_bias=False, name=name)(x_BLD)

        q_BLHK = rotate(heads("query", self.heads, "heads"))
        k_BSGK = rotate(heads("key", self.kv_heads, "kv_heads"))
        v_BSGK = heads("value", self.kv_heads, "kv_heads")
        q_BLGRK = q_BLHK.reshape(B, L, self.kv_heads, shared, K)
        score_BGRLS = jnp.einsum("blgrk,bsgk->bgrls", q_BLGRK, k_BSGK) * K**-0.5
        weight_BGRLS = jax.nn.softmax(jnp.where(jnp.tri(L, dtype=bool), score_BGRLS, -1e9))
        o_BLHK = jnp.einsum("bgrls,bsgk->blgrk", weight_BGRLS, v_BSGK).reshape(B, L, -1, K)
        kernel = named("heads", "kv", "embed")
        return nn.DenseGeneral(D, (-2, -1), kernel_init=kernel, use_bias=False, name="out")(o_BLHK)


class FlaxAttention(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x_BLD):
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            kernel_init=named("embed", "heads", "kv"),
            out_kernel_init=named("heads", "kv", "embed"),
            bias_init=named("heads", "kv"),
            out_bias_init=named("embed"),
        )
        return attention(x_BLD, mask=nn.make_causal_mask(x_BLD[..., 0]))


class Block(nn.Module):
    heads: int
    kv_heads: int | None

    @nn.compact
    def __call__(self, x_BLD, _):
        D = x_BLD.shape[-1]
        if self.kv_heads is None:
            attention = FlaxAttention(self.heads)
        else:
            attention = GroupedAttention(self.heads, self.kv_heads)
        x_BLD += attention(RMSNorm()(x_BLD))
        h_BLD = RMSNorm()(x_BLD)
        inner = dict(kernel_init=named("embed", "mlp"), use_bias=False)
        gate_BLF = nn.Dense(4 * D, name="gate", **inner)(h_BLD)
        up_BLF = nn.Dense(4 * D, name="up", **inner)(h_BLD)
        down = nn.Dense(D, kernel_init=named("mlp", "embed"), use_bias=False, name="down")
        return x_BLD + down(nn.silu(gate_BLF) * up_BLF), None


class Llama(nn.Module):
    """`kv_heads`: keys and values that the heads share; None: Flax's attention layer.

    `scan`: layers are stacked in one parameter and looped over.
    """

    num_tokens: int
    dim: int = 32
    depth: int = 2
    heads: int = 4
    kv_heads: int | None = None
    scan: bool = False

    def setup(self):
        self.table = self.param("table", named("vocab", "embed"), (self.num_tokens, self.dim))
        if self.scan:
            scanned = nn.scan(
                Block,
                length=self.depth,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            self.blocks = [scanned(self.heads, self.kv_heads)]
        else:
            self.blocks = [Block(self.heads, self.kv_heads) for _ in range(self.depth)]
        self.norm = RMSNorm()

    def __call__(self, tokens_BL):
        return self.unembed(self.hidden(tokens_BL))

    def hidden(self, tokens_BL):
        x_BLD = self.table[tokens_BL]
        for block in self.blocks:
            x_BLD, _ = block(x_BLD, None)
        return self.norm(x_BLD)

    def unembed(self, x_BLD):
        return x_BLD @ self.table.T
