"""What a user's module lacks is said from its shapes alone, in one line that names it."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.model.attention import Cache
from palmscale.model.interface import CacheSpec
from palmscale.model.tracing import takes_segments, trace, trace_extend

named = nn.with_logical_partitioning
NORMAL = nn.initializers.normal(0.05)


class Plain(nn.Module):
    num_tokens: int = 12
    dim: int = 4

    def setup(self):
        self.table = self.param(
            "table", named(NORMAL, ("vocab", "vocab_embed")), (self.num_tokens, self.dim)
        )

    def __call__(self, tokens_BL):
        return self.unembed(self.hidden(tokens_BL))

    def hidden(self, tokens_BL):
        return self.table[tokens_BL]

    def unembed(self, x_BLD):
        return x_BLD @ self.table.T


class HalfLogits(Plain):
    def unembed(self, x_BLD):
        return super().unembed(x_BLD).astype(jnp.bfloat16)


class FewLogits(Plain):
    def unembed(self, x_BLD):
        return super().unembed(x_BLD)[..., :10]


class FlatLogits(Plain):
    def unembed(self, x_BLD):
        return super().unembed(x_BLD)[:, -1]


class Pair(Plain):
    def hidden(self, tokens_BL):
        return super().hidden(tokens_BL), None

    def __call__(self, tokens_BL):
        return self.hidden(tokens_BL)[0]


class Short(Plain):
    def hidden(self, tokens_BL):
        return super().hidden(tokens_BL) + jnp.zeros((16, self.dim))[: tokens_BL.shape[1]]


class Noisy(Plain):
    def setup(self):
        super().setup()
        self.drop = nn.Dropout(0.5, deterministic=False)

    def hidden(self, tokens_BL):
        x_BLD = super().hidden(tokens_BL)
        return x_BLD if self.is_initializing() else self.drop(x_BLD)


class Dropping(Plain):
    def setup(self):
        super().setup()
        self.drop = nn.Dropout(0.5)

    def hidden(self, tokens_BL):
        return self.drop(super().hidden(tokens_BL), deterministic=not self.has_rng("dropout"))


class Averaging(Plain):
    def setup(self):
        super().setup()
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, (self.dim,))

    def hidden(self, tokens_BL):
        x_BLD = super().hidden(tokens_BL)
        if not self.is_initializing():
            self.mean.value = x_BLD.mean((0, 1))
        return x_BLD - self.mean.value


class Sowing(Plain):
    def hidden(self, tokens_BL):
        x_BLD = super().hidden(tokens_BL)
        self.sow("losses", "balance", jnp.mean(x_BLD**2))
        return x_BLD


class Packed(Plain):
    def hidden(self, tokens_BL, segment_BL=None, position_BL=None):
        assert (segment_BL is None) == (position_BL is None)
        return super().hidden(tokens_BL)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x_BLD, _):
        kernel = self.param("kernel", named(NORMAL, ("embed", "mlp")), (4, 4))
        return x_BLD + x_BLD @ kernel, None


class Scanned(Plain):
    partition_name: str | None = "layers"

    def setup(self):
        super().setup()
        names = {nn.PARTITION_NAME: self.partition_name} if self.partition_name else {}
        self.layers = nn.scan(
            nn.remat(Layer, prevent_cse=False), variable_axes={"params": 0},
            split_rngs={"params": True}, length=3, metadata_params=names,
        )()  # fmt: skip

    def hidden(self, tokens_BL):
        return self.layers(super().hidden(tokens_BL), None)[0]


@pytest.mark.parametrize("module", [Plain, Dropping, Packed, Scanned])
def test_a_module_that_can_be_trained_shows_its_outputs(module):
    traced = trace(module(), sequence_length=32)
    assert traced.hidden == jax.ShapeDtypeStruct((1, 32, 4), jnp.float32)
    assert traced.logits == jax.ShapeDtypeStruct((1, 32, 12), jnp.float32)
    assert traced.sown == ()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (HalfLogits(), "HalfLogits.unembed returns bfloat16 logits; it must return float32"),
        (FewLogits(), "FewLogits.unembed returns 10 logits for num_tokens=12"),
        (
            FlatLogits(),
            r"FlatLogits.unembed returns float32 of shape \(1, 12\) for tokens of shape",
        ),
        (Pair(), r"Pair.hidden returns a tuple .*; expected floats of shape \(1, 32, D\)"),
        (Short(), "Short.hidden fails for rows of 32 tokens: .*broadcasting"),
        (Noisy(), "Noisy.hidden fails .*deterministic=not self.has_rng"),
        (Averaging(), r"keeps variables besides its parameters \(batch_stats\).*nn.LayerNorm"),
        (Scanned(partition_name=None), r"Scanned.init fails .*metadata_params=.*PARTITION_NAME"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_one_that_cannot_is_told_why(model, said):
    with pytest.raises(UserError, match=said) as refused:
        trace(model, sequence_length=32)
    assert "\n" not in str(refused.value)


def test_a_module_needs_a_call_and_parameters():
    class Uncallable(nn.Module):
        pass

    class Bare(nn.Module):
        def __call__(self, tokens_BL):
            return tokens_BL

    with pytest.raises(UserError, match="Uncallable has no `__call__`"):
        trace(Uncallable(), sequence_length=8)
    with pytest.raises(UserError, match="Bare has no parameters"):
        trace(Bare(), sequence_length=8)


def test_what_is_sown_is_known_since_the_loss_leaves_it_out():
    assert trace(Sowing(), sequence_length=8).sown == ("losses",)


class Cached(Plain):
    """Keeps no keys or values, but counts the tokens."""

    wrong: str = ""

    @nn.nowrap
    def cache_spec(self):
        return CacheSpec(layers=1, head_dim=4, dtype="float32")

    def extend(self, tokens_BL, cache):
        k_NBSK = cache.k_NBSK[:, :, 1:] if self.wrong == "cache" else cache.k_NBSK
        x_BLD = self.table[tokens_BL][:, -1] if self.wrong == "output" else self.table[tokens_BL]
        if self.wrong == "failing":
            raise ValueError("no room")
        return x_BLD, Cache(k_NBSK, cache.v_NBSK, cache.length + tokens_BL.shape[1])


def test_extend_is_traced_with_the_cache_that_the_module_describes():
    assert trace_extend(Cached()) == CacheSpec(layers=1, head_dim=4, dtype="float32")
    palm = PaLM(dim=8, num_tokens=8, depth=2, heads=1, dim_head=8, dtype="bfloat16")
    assert trace_extend(palm) == CacheSpec(layers=2, head_dim=8, dtype="bfloat16", ragged=True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("cache", "Cached.extend returns a cache of other shapes"),
        ("output", r"Cached.extend returns float32 of shape \(1, 4\) .*expected .*\(1, 4, D\)"),
        ("failing", "Cached.extend fails for a cache .*: ValueError: no room"),
    ],
)
def test_an_extend_that_does_not_fit_its_cache_is_told(wrong, said):
    with pytest.raises(UserError, match=said):
        trace_extend(Cached(wrong=wrong))


def test_packed_rows_need_a_hidden_that_takes_them():
    assert takes_segments(Packed()) and not takes_segments(Plain())
    assert takes_segments(PaLM(dim=8, num_tokens=8, depth=1, heads=1, dim_head=8))
    trace(Packed(), sequence_length=8, is_packed=True)
    with pytest.raises(UserError, match="Plain.hidden takes no segment_BL and position_BL; add"):
        trace(Plain(), sequence_length=8, is_packed=True)
