"""PaLM, a decoder-only Transformer (Chowdhery et al. 2022, arXiv:2204.02311, section 2).

    y = x + attention(norm(x)) + mlp(norm(x))      parallel layers, one shared norm
    attention: multi-query, rotary positions       mlp: swish(x gate) * (x up), then down
    logits = norm(y) E^T / sqrt(D)                 the input embedding E is shared
    no biases anywhere

A suffix names an array's dims; einsum strings use the same letters in lower case:
  B batch   L query positions   S key positions (S = L unless decoding)   N layers
  D model   H heads   K head size   F mlp hidden   V vocabulary
partition/rules.py decides how each dim is sharded.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from palmscale import axes
from palmscale.model.attention import (
    MASKED_LOGIT,
    Cache,
    cached_attention,
    contract,
    rotate,
    self_attention,
    write_at,
)
from palmscale.model.embedding import logits_table, lookup
from palmscale.model.interface import DECODING, CacheSpec, DecodingWeights
from palmscale.model.palm_fields import check_fields, check_positions
from palmscale.model.remat import (
    GATE,
    KEY,
    NORM,
    QUERY,
    UP,
    VALUE,
    Remat,
    checked_remat,
    rematerialized_attention,
    rematerialized_layer,
    save_as,
)
from palmscale.partition.shardings import constrain

Layer = dict[str, jax.Array]

# The dims of a layer's weights that their products sum over, from the last. The token table stays
# as it is: quantized to int8, it would take the error of the logits from 0.9 % to 1.3 %.
_SUMMED = dict.fromkeys(("key", "value", "gate", "up", "down"), (-2,)) | {
    "query": (-3,), "attention_out": (-3, -2)}  # fmt: skip


class PaLM(nn.Module):
    """The paper's model. As a frozen dataclass, it is its own configuration.

    Parameters are float32 and stacked over layers; `apply` returns float32 logits [B, L, V].

    Attributes:
        dim: D, the width of the model.
        num_tokens: number of ids in the vocabulary.
        depth: N, the number of layers.
        dim_head: K, the size of a head; must be even, since rotary positions rotate pairs.
        heads: H, the number of query heads; all share one key and value head.
        ff_mult: F / D, the MLP's width in widths of the model. The paper uses 4, for both halves of
            SwiGLU.
        norm: `rms`, the paper's (T5 LayerNorm), or `layer`, which subtracts the mean.
        norm_eps: added to the norm's mean square.
        norm_scale_offset: a stored scale s acts as s + offset. With Google's 1, weight decay pulls
            a scale toward 1; with another, norm scales do not decay.
        final_norm: `scaled`, `unscaled` (Google's checkpoints) or `none`.
        rotary: `rope`, the paper's positions, or `xpos`, which also lets attention decay with
            distance, as the models of PaLM-rlhf-pytorch; it sees 32,768 positions at most.
        logit_scale: factor of the logits; None: 1 / sqrt(D), since embeddings are N(0, 1).
        embedding_std: standard deviation of the initial embeddings.
        kernel_init: `normal` or `truncated_normal`, with variance 1 / fan-in.
        output_fan_in: `separate` for attention_out and down, or `fused`: both count HK + F.
        padded_tokens: rows of the stored table and of the logits, at least num_tokens, chosen so
            that they divide over a mesh; padding ids get no probability. None: no padding.
        dropout: rate on the embeddings and each branch, if `apply` gets a `dropout` rng.
        dtype: dtype of activations and matmul inputs: `float32` or `bfloat16`.
        remat: what the backward pass recomputes: `none`, `attention`, `dots` (all but matmuls
            without batch dims) or `full` (all but each layer's input). Or a tuple of names from
            palmscale.model.remat.NAMES to save in addition to each layer's input.
        scan_layers: compile one layer and loop over it; otherwise unroll. Same parameters.
        query_chunk: number of queries that attention processes at a time.

    Raises:
        UserError: a field is not valid.
    """

    dim: int
    num_tokens: int
    depth: int
    dim_head: int = 64
    heads: int = 8
    ff_mult: int = 4
    norm: str = "rms"
    norm_eps: float = 1e-6
    norm_scale_offset: float = 1.0
    final_norm: str = "scaled"
    rotary: str = "rope"
    logit_scale: float | None = None
    embedding_std: float = 1.0
    kernel_init: str = "normal"
    output_fan_in: str = "separate"
    padded_tokens: int | None = None
    dropout: float = 0.0
    dtype: str = "float32"
    remat: Remat = "none"
    scan_layers: bool = True
    query_chunk: int = 128

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "remat", checked_remat(self.remat))
        super().__post_init__()

    @property
    def stored_tokens(self) -> int:
        """V: rows of the embedding table, including padding."""
        return self.padded_tokens or self.num_tokens

    @property
    def norm_axis(self) -> str:
        """The logical axis of norm scales, by which the optimizer knows whether they decay."""
        return axes.CENTERED_NORM if self.norm_scale_offset == 1 else axes.NORM

    @nn.nowrap
    def attention_flops_per_token(self, sequence_length: int) -> int:
        """Returns 12 N H K L, the training FLOPs without a discount for masking (appendix B)."""
        return 12 * self.depth * self.heads * self.dim_head * sequence_length

    def setup(self) -> None:
        table = nn.initializers.normal(self.embedding_std)
        self.table_VD = self.weight(
            "embedding",
            nn.with_logical_partitioning(table, (axes.VOCAB, axes.VOCAB_EMBED)),
            (self.stored_tokens, self.dim),
        )
        self.layers = self.weight("layers", self.init_layers)
        if self.final_norm == "scaled":
            scale = nn.initializers.constant(1.0 - self.norm_scale_offset)
            self.final_scale_D = self.weight(
                "final_norm", nn.with_logical_partitioning(scale, (self.norm_axis,)), (self.dim,)
            )

    @nn.nowrap
    def weight(self, name: str, *init: Any) -> Any:
        """Returns a parameter, or what generation holds in its place; see `decoding_weights`."""
        if self.has_variable(DECODING, name):
            return self.get_variable(DECODING, name)
        return self.param(name, *init)

    @nn.nowrap
    def decoding_weights(self) -> DecodingWeights:
        """Returns which parameters generation may cast, quantize and take apart."""
        return DecodingWeights(stacked="layers", kept=("norm", "final_norm"), summed=_SUMMED)

    @nn.nowrap
    def cache_spec(self) -> CacheSpec:
        """Returns the description of the multi-query cache of `extend`."""
        return CacheSpec(layers=self.depth, head_dim=self.dim_head, dtype=self.dtype, ragged=True)

    @nn.nowrap
    def init_layers(self, key: jax.Array) -> dict[str, nn.LogicallyPartitioned]:
        """Returns the parameters of all layers, [N, ...] each, with their logical axes.

        Kernels are N(0, 1 / fan-in) (section 5). The fan-in is the number of inputs that one output
        sums over, so the layer axis does not count.
        """
        D, H, K, F = self.dim, self.heads, self.dim_head, self.ff_mult * self.dim
        fused = self.output_fan_in == "fused"
        kernels = {  # name: (fan-in, shape, logical axes)
            "query": (D, (D, H, K), (axes.EMBED, axes.HEADS, axes.KV)),
            "key": (D, (D, K), (axes.EMBED, axes.KV)),
            "value": (D, (D, K), (axes.EMBED, axes.KV)),
            "attention_out": (
                H * K + F * fused, (H, K, D), (axes.HEADS, axes.KV, axes.EMBED)),
            "gate": (D, (D, F), (axes.EMBED, axes.MLP)),
            "up": (D, (D, F), (axes.EMBED, axes.MLP)),
            "down": (F + H * K * fused, (F, D), (axes.MLP, axes.EMBED)),
        }  # fmt: skip
        # Truncation at two standard deviations shrinks the standard deviation to 0.8796 of it.
        draw, shrink = (
            (jax.random.normal, 1.0)
            if self.kernel_init == "normal"
            else (lambda k, shape: jax.random.truncated_normal(k, -2.0, 2.0, shape), 0.87962566)
        )
        scale_ND = jnp.full((self.depth, D), 1.0 - self.norm_scale_offset)
        params = {"norm": nn.LogicallyPartitioned(scale_ND, (axes.LAYERS, self.norm_axis))}
        for (name, (fan_in, shape, names)), kernel_key in zip(
            kernels.items(), jax.random.split(key, len(kernels)), strict=True
        ):
            std = 1 / (math.sqrt(fan_in) * shrink)
            stacked = std * draw(kernel_key, (self.depth, *shape))
            params[name] = nn.LogicallyPartitioned(stacked, (axes.LAYERS, *names))
        return params

    def __call__(self, tokens_BL: jax.Array) -> jax.Array:
        """Returns float32 logits [B, L, V] for the token after each of `tokens_BL`."""
        return self.unembed(self.hidden(tokens_BL))

    def hidden(
        self,
        tokens_BL: jax.Array,
        segment_BL: jax.Array | None = None,
        position_BL: jax.Array | None = None,
    ) -> jax.Array:
        """Returns x_BLD, the normalized output of the last layer.

        Args:
            tokens_BL: int32 in [0, num_tokens).
            segment_BL: id of each token's packed document, which it cannot attend beyond; None:
                one document per row.
            position_BL: position within the document; None: position within the row.
        """
        check_positions(self, tokens_BL.shape[1])
        if position_BL is None:
            position_BL = jnp.arange(tokens_BL.shape[1])[None]

        def attention(q_BLHK, k_BLK, v_BLK):
            return self_attention(
                q_BLHK, k_BLK, v_BLK, segment_BL=segment_BL, query_chunk=self.query_chunk
            )

        # A loop already separates the two passes; unrolled, XLA would merge them again (CSE).
        options = dict(remat=self.remat, in_a_loop=self.scan_layers)
        attention = rematerialized_attention(attention, **options)

        def layer_step(x_BLD, layer_and_key):
            layer, key = layer_and_key
            q_BLHK, k_BLK, v_BLK, y_BLD = self.project(layer, x_BLD, position_BL)
            return self.merge(layer, x_BLD, y_BLD, attention(q_BLHK, k_BLK, v_BLK), key), None

        layer_step = rematerialized_layer(layer_step, **options)
        drops = self.dropout > 0 and self.has_rng("dropout")
        keys = jax.random.split(self.make_rng("dropout"), self.depth + 1) if drops else None
        x_BLD = self.drop(self.embed(tokens_BL), None if keys is None else keys[0])
        layer_keys = None if keys is None else keys[1:]
        unroll = 1 if self.scan_layers else self.depth
        x_BLD, _ = jax.lax.scan(layer_step, x_BLD, (self.layers, layer_keys), unroll=unroll)
        return self.normalize_last(x_BLD)

    def extend(self, tokens_BL: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Returns x_BLD of L more tokens of each sequence, and the cache extended by them.

        A sequence continues at its own length; keys and values past the cache's end are dropped.
        """
        B, L = tokens_BL.shape
        check_positions(self, cache.k_NBSK[0].shape[1])
        start_B = jnp.broadcast_to(cache.length, B)
        # Like the queries, or each layer would gather the rotations of other devices' sequences.
        position_BL = constrain(start_B[:, None] + jnp.arange(L), (axes.BATCH, axes.LENGTH))

        def layer_step(x_BLD, layer, k_BSK, v_BSK):
            q_BLHK, k_BLK, v_BLK, y_BLD = self.project(layer, x_BLD, position_BL)
            k_BSK = write_at(k_BSK, k_BLK, position_BL)
            v_BSK = write_at(v_BSK, v_BLK, position_BL)
            o_BLHK = cached_attention(
                q_BLHK, k_BSK, v_BSK, position_BL, query_chunk=self.query_chunk
            )
            return self.merge(layer, x_BLD, y_BLD, o_BLHK, None), (k_BSK, v_BSK)

        x_BLD = self.embed(tokens_BL)
        if isinstance(self.layers, tuple):
            layer_caches = []
            for layer, *kv in zip(self.layers, cache.k_NBSK, cache.v_NBSK, strict=True):
                x_BLD, kv = layer_step(x_BLD, layer, *kv)
                layer_caches.append(kv)
            return self.normalize_last(x_BLD), Cache(*zip(*layer_caches), cache.length + L)

        # Carried, the cache is written in place; stacked anew, it would exist twice.
        def stacked_step(carry, n_and_layer):
            x_BLD, *caches = carry
            n, layer = n_and_layer
            x_BLD, written = layer_step(x_BLD, layer, *(cache[n] for cache in caches))
            write = jax.lax.dynamic_update_index_in_dim
            return (x_BLD, *map(lambda c, w: write(c, w, n, 0), caches, written)), None

        numbered = (jnp.arange(self.depth), self.layers)
        carry = (x_BLD, cache.k_NBSK, cache.v_NBSK)
        (x_BLD, k_NBSK, v_NBSK), _ = jax.lax.scan(stacked_step, carry, numbered)
        return self.normalize_last(x_BLD), Cache(k_NBSK, v_NBSK, cache.length + L)

    def unembed(self, x_BLD: jax.Array) -> jax.Array:
        """Returns float32 logits [B, L, V]; padding ids are masked to -1e10."""
        scale = self.dim**-0.5 if self.logit_scale is None else self.logit_scale
        # Each device has all of D for its part of V, so no sums over devices are needed for the
        # logits or their gradient.
        x_BLD = constrain(x_BLD, (axes.BATCH, axes.LENGTH, None))
        table_VD = logits_table(self.table_VD, x_BLD.dtype)
        logits_BLV = contract("bld,vd->blv", x_BLD, table_VD) * scale
        if self.stored_tokens > self.num_tokens:
            is_token_V = jnp.arange(self.stored_tokens) < self.num_tokens
            logits_BLV = jnp.where(is_token_V, logits_BLV, MASKED_LOGIT)
        return constrain(logits_BLV, (axes.BATCH, axes.LENGTH, axes.ACT_VOCAB))

    @nn.nowrap
    def embed(self, tokens_BL: jax.Array) -> jax.Array:
        """Returns x_BLD, the embeddings without scaling."""
        return pin_residual(lookup(self.table_VD, tokens_BL, self.dtype))

    @nn.nowrap
    def project(
        self, layer: Layer, x_BLD: jax.Array, position_BL: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Returns (q_BLHK, k_BLK, v_BLK, y_BLD): y is norm(x), the input of both branches."""
        # Keys and values are the same on all devices that share a row, so each device computes its
        # part of the sum over D, and the small results are added. Queries and mlp columns are
        # sharded: training gathers all of y for them once, and sums its gradients once.
        part_BLD = pin_residual(self.normalize(x_BLD, layer["norm"]))
        y_BLD = save_as(NORM, constrain(part_BLD, (axes.BATCH, axes.LENGTH, axes.ACT_INPUT)))
        q_BLHK = contract("bld,dhk->blhk", y_BLD, layer["query"], y_BLD.dtype)
        q_BLHK = constrain(q_BLHK, (axes.BATCH, axes.LENGTH, axes.ACT_HEADS, axes.ACT_KV))
        k_BLK = contract("bld,dk->blk", part_BLD, layer["key"], y_BLD.dtype)
        v_BLK = contract("bld,dk->blk", part_BLD, layer["value"], y_BLD.dtype)
        xpos = 1 if self.rotary == "xpos" else 0
        k_BLK = rotate(k_BLK[:, :, None], position_BL, xpos=-xpos)[:, :, 0]
        q_BLHK = save_as(QUERY, rotate(q_BLHK, position_BL, xpos=xpos))
        return q_BLHK, save_as(KEY, k_BLK), save_as(VALUE, v_BLK), y_BLD

    @nn.nowrap
    def merge(
        self,
        layer: Layer,
        x_BLD: jax.Array,
        y_BLD: jax.Array,
        o_BLHK: jax.Array,
        key: jax.Array | None,
    ) -> jax.Array:
        """Returns the layer's output: residual + projected attention `o` + mlp."""
        dtype = x_BLD.dtype
        o_BLF, out_FD = o_BLHK.reshape(*o_BLHK.shape[:2], -1), layer["attention_out"]
        out_FD = out_FD.reshape(o_BLF.shape[-1], out_FD.shape[-1])
        attention_BLD = contract("blf,fd->bld", o_BLF, out_FD, dtype)
        gate_BLF = save_as(GATE, contract("bld,df->blf", y_BLD, layer["gate"], dtype))
        up_BLF = save_as(UP, contract("bld,df->blf", y_BLD, layer["up"], dtype))
        gate32_BLF, up32_BLF = gate_BLF.astype(jnp.float32), up_BLF.astype(jnp.float32)
        h_BLF = (nn.swish(gate32_BLF) * up32_BLF).astype(dtype)
        h_BLF = constrain(h_BLF, (axes.BATCH, axes.LENGTH, axes.ACT_MLP))
        mlp_BLD = contract("blf,fd->bld", h_BLF, layer["down"], dtype)
        branches_BLD = self.drop(attention_BLD + mlp_BLD, key)
        return pin_residual(x_BLD + branches_BLD)

    @nn.nowrap
    def drop(self, x_BLD: jax.Array, key: jax.Array | None) -> jax.Array:
        """Returns `x` with dropout applied if a key is given, and else unchanged."""
        if key is None:
            return x_BLD
        keep = 1.0 - self.dropout
        return jnp.where(jax.random.bernoulli(key, keep, x_BLD.shape), x_BLD / keep, 0)

    @nn.nowrap
    def normalize_last(self, x_BLD: jax.Array) -> jax.Array:
        """Returns the last layer's output after the final norm, if there is one."""
        if self.final_norm == "none":
            return x_BLD
        return self.normalize(x_BLD, self.final_scale_D if self.final_norm == "scaled" else None)

    @nn.nowrap
    def normalize(self, x_BLD: jax.Array, scale_D: jax.Array | None) -> jax.Array:
        """Returns `x` normalized over D and scaled, with float32 statistics."""
        x32_BLD = x_BLD.astype(jnp.float32)
        if self.norm == "layer":
            x32_BLD -= jnp.mean(x32_BLD, axis=-1, keepdims=True)
        mean_square = jnp.mean(x32_BLD * x32_BLD, axis=-1, keepdims=True)
        y_BLD = x32_BLD * jax.lax.rsqrt(mean_square + self.norm_eps)
        if scale_D is not None:
            y_BLD *= scale_D + self.norm_scale_offset
        return y_BLD.astype(x_BLD.dtype)


def pin_residual(x_BLD: jax.Array) -> jax.Array:
    """Returns the residual stream in the layout's sharding; a full remat saves only this."""
    return constrain(x_BLD, (axes.BATCH, axes.ACT_LENGTH, axes.ACT_EMBED))
