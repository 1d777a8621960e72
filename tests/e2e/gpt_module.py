"""A GPT in ninety lines: not PaLM, none of its names, trained by palmscale from a gin file alone.

Serial blocks, a key and a value for every head, learned positions, LayerNorm, an output table of
its own. What palmscale needs of it to train: `hidden`, `unembed`, and a name for each dim of each
parameter; to generate: `extend`, and a description of its cache.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from palmscale.model.attention import Cache
from palmscale.model.interface import CacheSpec
from palmscale.partition.shardings import constrain

STREAM = ("batch", "length", "gpt_stream")


def named(init, *names):
    return nn.with_logical_partitioning(init, names)


class Block(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x_BLD, kv=None, start=0):
        """The block's output, and the keys and values [B, S, H K] so far; without `kv`, only L."""
        B, L, D = x_BLD.shape
        K = D // self.heads
        normal = nn.initializers.normal(0.02)
        width_heads = named(normal, None, "gpt_width", "gpt_heads", "gpt_head_size")
        qkv_3DHK = self.param("qkv", width_heads, (3, D, self.heads, K))
        heads_width = named(normal, "gpt_heads", "gpt_head_size", "gpt_width")
        out_HKD = self.param("out", heads_width, (self.heads, K, D))
        up_DF = self.param("up", named(normal, "gpt_width", "gpt_inner"), (D, 4 * D))
        down_FD = self.param("down", named(normal, "gpt_inner", "gpt_width"), (4 * D, D))
        qkv_3BLHK = jnp.einsum("bld,cdhk->cblhk", layer_norm("norm_1")(x_BLD), qkv_3DHK)
        q, k, v = constrain(qkv_3BLHK, (None, "batch", "length", "gpt_heads", None))
        if kv is not None:
            write = jax.lax.dynamic_update_slice_in_dim
            kv = tuple(write(old, new.reshape(B, L, D), start, 1) for old, new in zip(kv, (k, v)))
            k, v = (one.reshape(B, -1, self.heads, K) for one in kv)
        visible_LS = jnp.arange(k.shape[1]) <= start + jnp.arange(L)[:, None]
        scores_BHLS = jnp.einsum("blhk,bshk->bhls", q, k) * K**-0.5
        weights_BHLS = jax.nn.softmax(jnp.where(visible_LS, scores_BHLS, -1e9))
        x_BLD += jnp.einsum("bhls,bshk,hkd->bld", weights_BHLS, v, out_HKD)
        h_BLF = constrain(layer_norm("norm_2")(x_BLD) @ up_DF, ("batch", "length", "gpt_inner"))
        return constrain(x_BLD + nn.gelu(h_BLF) @ down_FD, STREAM), kv


def layer_norm(name):
    scale = named(nn.initializers.ones, "gpt_norm")
    return nn.LayerNorm(name=name, use_bias=False, scale_init=scale)


class GPT(nn.Module):
    num_tokens: int
    dim: int
    depth: int
    heads: int
    max_length: int

    def setup(self):
        table = named(nn.initializers.normal(0.02), "gpt_vocab", "gpt_width")
        self.input_VD = self.param("input", table, (self.num_tokens, self.dim))
        self.output_VD = self.param("output", table, (self.num_tokens, self.dim))
        positions = named(nn.initializers.normal(0.01), None, "gpt_width")
        self.position_LD = self.param("position", positions, (self.max_length, self.dim))
        self.blocks = [Block(self.heads, name=f"block_{n}") for n in range(self.depth)]
        self.last_norm = layer_norm("last_norm")

    def __call__(self, tokens_BL):
        return self.unembed(self.hidden(tokens_BL))

    def hidden(self, tokens_BL):
        x_BLD = self.input_VD[tokens_BL] + self.position_LD[: tokens_BL.shape[1]]
        x_BLD = constrain(x_BLD, STREAM)
        for block in self.blocks:
            x_BLD, _ = block(x_BLD)
        return self.last_norm(x_BLD)

    @nn.nowrap
    def cache_spec(self):
        return CacheSpec(layers=self.depth, head_dim=self.dim, dtype="float32")

    def extend(self, tokens_BL, cache):
        position_LD = jax.lax.dynamic_slice_in_dim(
            self.position_LD, cache.length, tokens_BL.shape[1]
        )
        x_BLD, caches = constrain(self.input_VD[tokens_BL] + position_LD, STREAM), []
        for block, *kv in zip(self.blocks, cache.k_NBSK, cache.v_NBSK):
            x_BLD, kv = block(x_BLD, kv, cache.length)
            caches.append(kv)
        k_NBSK, v_NBSK = map(jnp.stack, zip(*caches))
        cache = Cache(k_NBSK, v_NBSK, cache.length + tokens_BL.shape[1])
        return self.last_norm(x_BLD), cache

    def unembed(self, x_BLD):
        return jnp.einsum("bld,vd->blv", x_BLD, self.output_VD)
