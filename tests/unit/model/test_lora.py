"""Adapters: which weights get them, their axes, their start, and trees with and without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from tiny_training import MODEL

from palmscale import axes
from palmscale.errors import UserError
from palmscale.model import lora
from palmscale.model.adapted import is_adapted
from palmscale.model.attention import contract, dense
from palmscale.model.interface import DECODING, DecodingWeights, variables_of
from palmscale.model.lora import Lora
from palmscale.model.tracing import trace_adapted
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params
from palmscale.trees import named_leaves

TARGETS = ("query", "key", "value", "attention_out", "gate", "up", "down")
ALL = Lora(rank=3, alpha=6.0, targets=TARGETS)


@pytest.fixture(scope="module")
def boxed():
    return abstract_params(MODEL)


@pytest.fixture(scope="module")
def shapes(boxed):
    return unbox(lora.adapted_shapes(ALL, MODEL, boxed))


@pytest.fixture(scope="module")
def params():
    tokens_BL = jnp.zeros((1, 1), jnp.int32)
    return unbox(MODEL.init({"params": jax.random.key(0)}, tokens_BL)["params"])


def test_an_adapter_has_the_axes_of_its_weight_and_the_rank_is_whole(boxed):
    tree = lora.adapted_shapes(ALL, MODEL, boxed)["layers"]
    query, out = tree["query"], tree["attention_out"]
    assert query.down.value.shape == (2, 32, 3) and query.up.value.shape == (2, 3, 8, 4)
    assert query.down.names == (axes.LAYERS, axes.EMBED, None)
    assert query.up.names == (axes.LAYERS, None, axes.HEADS, axes.KV)
    assert out.down.names == (axes.LAYERS, axes.HEADS, axes.KV, None)
    assert out.up.names == (axes.LAYERS, None, axes.EMBED)
    assert query.kernel is boxed["layers"]["query"] and query.scale == 2.0


def test_trees_come_apart_into_base_and_adapters_and_back(params, shapes):
    adapters = lora.initial_adapters(shapes, jax.random.key(1))
    whole = lora.joined(shapes, named_leaves(params), adapters)
    assert jax.tree.structure(whole) == jax.tree.structure(shapes)
    jax.tree.map(np.testing.assert_array_equal, lora.base_of(whole), params)
    apart = lora.adapters_of(whole)
    assert named_leaves(apart).keys() == adapters.keys()
    assert apart["layers"]["down"].keys() == {"down", "up"}  # the weight of that name is no adapter
    own = lora.base_paths(whole)
    assert own["layers/down"] == "layers/down/kernel" and own["embedding"] == "embedding"
    assert set(own.values()) | adapters.keys() == named_leaves(whole).keys()


def test_new_adapters_change_nothing_and_have_the_spread_of_a_kernel(params, shapes):
    adapters = lora.initial_adapters(shapes, jax.random.key(1))
    whole = lora.joined(shapes, named_leaves(params), adapters)
    tokens_BL = np.arange(12)[None] % MODEL.num_tokens
    logits = MODEL.apply(variables_of(whole), tokens_BL)
    np.testing.assert_allclose(logits, MODEL.apply({"params": params}, tokens_BL), atol=1e-6)
    downs = [leaf for path, leaf in adapters.items() if path.endswith("/down")]
    fan_ins = {32: 0.0, 64: 0.0}
    for leaf in downs:
        fan_in = int(np.prod(leaf.shape[1:-1]))
        fan_ins[fan_in] = float(jnp.std(leaf)) * fan_in**0.5
    assert all(0.8 < spread < 1.2 for spread in fan_ins.values()), fan_ins


def test_base_plus_adapters_equals_the_merged_model(params, shapes):
    random = np.random.default_rng(0)
    adapters = {
        path: jnp.asarray(random.normal(size=leaf.shape) / 8, jnp.float32)
        for path, leaf in named_leaves(lora.adapters_of(shapes)).items()
    }
    whole = lora.joined(shapes, named_leaves(params), adapters)
    merged = jax.tree.map(
        lambda leaf: lora.merged(leaf) if is_adapted(leaf) else leaf, whole, is_leaf=is_adapted
    )
    tokens_BL = np.arange(12)[None] % MODEL.num_tokens
    ours, theirs = (MODEL.apply(variables_of(p), tokens_BL) for p in (whole, merged))
    assert np.abs(ours - MODEL.apply({"params": params}, tokens_BL)).max() > 0.1
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rank": 0, "alpha": 1.0}, "Lora.rank=0"),
        ({"rank": 1, "alpha": 0.0}, "Lora.alpha=0.0"),
        ({"rank": 1, "alpha": float("nan")}, "Lora.alpha=nan"),
        ({"rank": 1, "alpha": 1.0, "targets": ()}, "Lora.targets"),
    ],
)
def test_a_field_out_of_range_is_refused(fields, told):
    with pytest.raises(UserError, match=told):
        Lora(**fields)


def test_an_unknown_weight_is_refused_with_the_known_ones(boxed):
    with pytest.raises(UserError, match=r"has embedding, w; PaLM has the weights attention_out, d"):
        lora.adapted_shapes(Lora(rank=1, alpha=1.0, targets=("embedding", "w")), MODEL, boxed)


def test_a_module_that_does_not_describe_its_weights_is_refused():
    class Own(nn.Module):
        pass

    with pytest.raises(UserError, match="Own cannot have adapters: it has no `decoding_weights"):
        lora.adapted_shapes(ALL, Own(), {})


class Unstacked(nn.Module):
    """A user's own module of two products, of weights that are not stacked."""

    takes: bool = True

    def decoding_weights(self):
        return DecodingWeights(stacked="", kept=(), summed={"wide": (-2,), "narrow": (-2,)})

    def setup(self):
        normal = nn.initializers.normal(0.5)
        self.weights = {
            name: self.weight(name, nn.with_logical_partitioning(normal, names), shape)
            for name, names, shape in (
                ("wide", (axes.EMBED, axes.MLP), (8, 12)),
                ("narrow", (axes.MLP, axes.EMBED), (12, 8)),
            )
        }

    def weight(self, name, *init):
        if self.takes and self.has_variable(DECODING, name):
            return self.get_variable(DECODING, name)
        return self.param(name, *init)

    def __call__(self, tokens_BL):
        return self.unembed(self.hidden(tokens_BL))

    def hidden(self, tokens_BL):
        h_BLF = contract("bld,df->blf", jax.nn.one_hot(tokens_BL, 8), self.weights["wide"])
        return h_BLF @ dense(self.weights["narrow"], h_BLF.dtype)

    def unembed(self, x_BLD):
        return x_BLD


def test_a_users_own_module_has_adapters_in_products_and_in_whole_weights():
    targets = Lora(rank=2, alpha=2.0, targets=("wide", "narrow"))
    boxed = lora.adapted_shapes(targets, Unstacked(), abstract_params(Unstacked()))
    assert boxed["wide"].up.names == (None, axes.MLP)
    trace_adapted(Unstacked(), boxed, sequence_length=4)
    random = np.random.default_rng(0)
    whole = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape), jnp.float32), unbox(boxed)
    )
    merged = {name: lora.merged(weight) for name, weight in whole.items()}
    tokens_BL = np.arange(8)[None]
    ours, theirs = (Unstacked().apply(variables_of(p), tokens_BL) for p in (whole, merged))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_module_that_reads_its_parameters_alone_is_refused_before_it_trains():
    own = Unstacked(takes=False)
    targets = Lora(rank=2, alpha=2.0, targets=("wide",))
    boxed = lora.adapted_shapes(targets, own, abstract_params(own))
    with pytest.raises(UserError, match="hidden fails for weights with adapters: .* 'decoding'"):
        trace_adapted(own, boxed, sequence_length=4)
