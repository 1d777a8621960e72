"""The decoders of other people's published runs, as a module that palmscale trains and plans.

    serial:    h = x + attention(norm(x));  y = h + mlp(norm(h))       Llama (arXiv:2307.09288)
    parallel:  y = x + attention(norm(x)) + mlp(norm(x))               MaxText's default of 2023

Rotary positions, RMSNorm, no biases; the mlp is SwiGLU or an ungated ReLU; G groups of heads have
a key and a value each. Matmuls take and give the activations' dtype, so weights travel and their
gradients are summed in it, as MaxText has it. Letters are those of palmscale/axes.py; R are the
query heads of a group.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from palmscale import axes
from palmscale.model.attention import MASKED_LOGIT, rotate
from palmscale.model.remat import saving_policy
from palmscale.partition.shardings import constrain, map_shards

STREAM = (axes.BATCH, axes.LENGTH, axes.ACT_EMBED)
HEADS = (axes.BATCH, axes.LENGTH, axes.ACT_HEADS, axes.ACT_KV)
# What a remat policy may save of a layer, by these names.
QUERY, KEY, VALUE, ATTENTION_OUT, DOWN = "query", "key", "value", "attention_out", "down"
LAYER_INPUT = "layer_input"  # saved on the device anyway; of use as `layer_input@host`

Layer = dict[str, jax.Array]


class Decoder(nn.Module):
    """A decoder of one of the two kinds above.

    Attributes:
        dim: D.
        num_tokens: V.
        depth: N.
        heads: H.
        kv_heads: G, which divides H.
        dim_head: K.
        mlp_dim: F.
        gated: SwiGLU; else an ungated ReLU.
        parallel: attention and mlp read one norm of the layer's input.
        tied: the logits read the token table, over the square root of D.
        one_hot_lookup: tokens are looked up by a matmul (MaxText's use_iota_embed).
        attention: `plain`, which computes all scores, or `splash`, a kernel for TPUs.
        remat: `full`, `dots` (all matmuls without batch dims are saved), or the names to save, in
            the host's memory where `@host` follows one.
        dtype: of activations and matmuls; parameters are float32.
    """

    dim: int
    num_tokens: int
    depth: int
    heads: int
    kv_heads: int
    dim_head: int
    mlp_dim: int
    gated: bool = True
    parallel: bool = False
    tied: bool = False
    one_hot_lookup: bool = False
    attention: str = "plain"
    remat: str | tuple[str, ...] = "full"
    dtype: str = "bfloat16"

    @nn.nowrap
    def attention_flops_per_token(self, sequence_length: int) -> int:
        """Returns 12 N H K L, of training; whole attention counted (PaLM, appendix B)."""
        return 12 * self.depth * self.heads * self.dim_head * sequence_length

    def setup(self) -> None:
        def table(name: str) -> jax.Array:
            names = (axes.VOCAB, axes.VOCAB_EMBED)
            init = nn.with_logical_partitioning(nn.initializers.normal(1.0), names)
            return self.param(name, init, (self.num_tokens, self.dim))

        self.input_VD = table("input")
        self.output_VD = self.input_VD if self.tied else table("output")
        self.layers = self.param("layers", self.init_layers)
        ones = nn.with_logical_partitioning(nn.initializers.ones, (axes.NORM,))
        self.last_norm_D = self.param("last_norm", ones, (self.dim,))

    @nn.nowrap
    def init_layers(self, key: jax.Array) -> dict[str, nn.LogicallyPartitioned]:
        """Returns the parameters of all layers, [N, ...] each; kernels are N(0, 1 / fan-in)."""
        D, H, G, K, F = self.dim, self.heads, self.kv_heads, self.dim_head, self.mlp_dim
        kernels = {  # name: (fan-in, shape, logical axes)
            "query": (D, (D, H, K), (axes.EMBED, axes.HEADS, axes.KV)),
            "key": (D, (D, G, K), (axes.EMBED, axes.HEADS, axes.KV)),
            "value": (D, (D, G, K), (axes.EMBED, axes.HEADS, axes.KV)),
            "out": (H * K, (H, K, D), (axes.HEADS, axes.KV, axes.EMBED)),
            "up": (D, (D, F), (axes.EMBED, axes.MLP)),
            "down": (F, (F, D), (axes.MLP, axes.EMBED)),
        }
        if self.gated:
            kernels["gate"] = kernels["up"]
        params = {}
        for name in ("norm",) if self.parallel else ("norm", "mlp_norm"):
            ones_ND = jnp.ones((self.depth, D))
            params[name] = nn.LogicallyPartitioned(ones_ND, (axes.LAYERS, axes.NORM))
        for (name, (fan_in, shape, names)), one in zip(
            kernels.items(), jax.random.split(key, len(kernels)), strict=True
        ):
            value = jax.random.normal(one, (self.depth, *shape)) / math.sqrt(fan_in)
            params[name] = nn.LogicallyPartitioned(value, (axes.LAYERS, *names))
        return params

    def __call__(self, tokens_BL: jax.Array) -> jax.Array:
        """Returns the float32 logits [B, L, V] of the token after each of `tokens_BL`."""
        return self.unembed(self.hidden(tokens_BL))

    def hidden(self, tokens_BL: jax.Array) -> jax.Array:
        """Returns x_BLD, the normalized output of the last layer."""
        table_VD = self.input_VD.astype(self.dtype)
        if self.one_hot_lookup:
            one_hot_BLV = jax.nn.one_hot(tokens_BL, self.num_tokens, dtype=self.dtype)
            one_hot_BLV = constrain(one_hot_BLV, (axes.BATCH, axes.LENGTH, axes.ACT_VOCAB))
            x_BLD = one_hot_BLV @ table_VD
        else:
            x_BLD = table_VD[tokens_BL]

        def step(x_BLD: jax.Array, layer: Layer) -> tuple[jax.Array, None]:
            return self.block(checkpoint_name(x_BLD, LAYER_INPUT), layer), None

        step = jax.checkpoint(step, policy=_policy(self.remat), prevent_cse=False)
        x_BLD, _ = jax.lax.scan(step, constrain(x_BLD, STREAM), self.layers)
        return normalize(x_BLD, self.last_norm_D)

    def unembed(self, x_BLD: jax.Array) -> jax.Array:
        """Returns the float32 logits [B, L, V]."""
        table_VD = self.output_VD.astype(x_BLD.dtype)
        logits_BLV = jnp.einsum("bld,vd->blv", x_BLD, table_VD, preferred_element_type=jnp.float32)
        if self.tied:
            logits_BLV *= self.dim**-0.5
        return constrain(logits_BLV, (axes.BATCH, axes.LENGTH, axes.ACT_VOCAB))

    @nn.nowrap
    def block(self, x_BLD: jax.Array, layer: Layer) -> jax.Array:
        """Returns the output of one layer."""
        y_BLD = normalize(x_BLD, layer["norm"])
        attention_BLD = self.attend(y_BLD, layer)
        if self.parallel:
            return constrain(x_BLD + attention_BLD + self.feed_forward(y_BLD, layer), STREAM)
        x_BLD = constrain(x_BLD + attention_BLD, STREAM)
        y_BLD = normalize(x_BLD, layer["mlp_norm"])
        return constrain(x_BLD + self.feed_forward(y_BLD, layer), STREAM)

    @nn.nowrap
    def attend(self, y_BLD: jax.Array, layer: Layer) -> jax.Array:
        """Returns what attention adds to the stream."""
        position_1L = jnp.arange(y_BLD.shape[1])[None]

        def project(name: str) -> jax.Array:
            z_BLHK = jnp.einsum("bld,dhk->blhk", y_BLD, layer[name].astype(y_BLD.dtype))
            if name != VALUE:
                z_BLHK = rotate(z_BLHK, position_1L)
            return checkpoint_name(constrain(z_BLHK, HEADS), name)

        q_BLHK, k_BLGK, v_BLGK = map(project, (QUERY, KEY, VALUE))
        attend = plain_attention
        # A kernel takes whole blocks, which the one token of an initialization is not.
        if self.attention == "splash" and y_BLD.shape[1] % 128 == 0:
            attend = map_shards(
                splash_attention, attend, platform="tpu", inputs=(HEADS,) * 3, output=HEADS
            )
        o_BLHK = constrain(attend(q_BLHK, k_BLGK, v_BLGK), HEADS)
        out_BLD = jnp.einsum("blhk,hkd->bld", o_BLHK, layer["out"].astype(y_BLD.dtype))
        return checkpoint_name(constrain(out_BLD, STREAM), ATTENTION_OUT)

    @nn.nowrap
    def feed_forward(self, y_BLD: jax.Array, layer: Layer) -> jax.Array:
        """Returns what the mlp adds to the stream."""
        up_BLF = jnp.einsum("bld,df->blf", y_BLD, layer["up"].astype(y_BLD.dtype))
        if self.gated:
            gate_BLF = jnp.einsum("bld,df->blf", y_BLD, layer["gate"].astype(y_BLD.dtype))
            h_BLF = nn.swish(gate_BLF) * up_BLF
        else:
            h_BLF = nn.relu(up_BLF)
        h_BLF = constrain(h_BLF, (axes.BATCH, axes.LENGTH, axes.ACT_MLP))
        down_BLD = jnp.einsum("blf,fd->bld", h_BLF, layer["down"].astype(y_BLD.dtype))
        return checkpoint_name(constrain(down_BLD, STREAM), DOWN)


def normalize(x_BLD: jax.Array, scale_D: jax.Array) -> jax.Array:
    """Returns RMSNorm of `x`, statistics in float32."""
    x32_BLD = x_BLD.astype(jnp.float32)
    mean_square = jnp.mean(x32_BLD * x32_BLD, axis=-1, keepdims=True)
    y_BLD = x32_BLD * jax.lax.rsqrt(mean_square + 1e-5) * scale_D
    return constrain(y_BLD.astype(x_BLD.dtype), STREAM)


def plain_attention(q_BLHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array) -> jax.Array:
    """Returns o_BLHK of causal attention; all scores exist, in the activations' dtype."""
    B, L, H, K = q_BLHK.shape
    G = k_BSGK.shape[2]
    q_BLGRK = q_BLHK.reshape(B, L, G, H // G, K) * K**-0.5
    score_BGRLS = jnp.einsum("blgrk,bsgk->bgrls", q_BLGRK, k_BSGK)
    score_BGRLS = jnp.where(jnp.tri(L, dtype=bool), score_BGRLS, MASKED_LOGIT)
    weight_BGRLS = jax.nn.softmax(score_BGRLS)
    o_BLGRK = jnp.einsum("bgrls,bsgk->blgrk", weight_BGRLS, v_BSGK)
    return o_BLGRK.reshape(B, L, H, K)


def splash_attention(q_BLHK: jax.Array, k_BLGK: jax.Array, v_BLGK: jax.Array) -> jax.Array:
    """Returns the same by JAX's kernel, of one device's rows and heads."""
    _, length, heads, dim_head = q_BLHK.shape
    sizes = {
        f"block_{name}": min(512, length)
        for name in ("q", "kv", "q_dkv", "kv_dkv", "q_dq", "kv_dq")
    }
    attend = splash.make_splash_mha_single_device(
        mask=splash.MultiHeadMask([splash.CausalMask((length, length))] * heads),
        block_sizes=splash.BlockSizes(**sizes),
    )
    q, k, v = (jnp.swapaxes(z, 1, 2) for z in (q_BLHK * dim_head**-0.5, k_BLGK, v_BLGK))
    return jnp.swapaxes(jax.vmap(attend)(q, k, v), 1, 2)


def _policy(remat: str | tuple[str, ...]):
    if remat == "full":
        return None
    if remat == "dots":
        return jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return saving_policy(remat)
