"""What PaLM is, however it is computed: the properties that every option must keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from palmscale.errors import UserError
from palmscale.model.attention import Cache
from palmscale.model.palm import PaLM
from palmscale.partition.rules import TABLES
from palmscale.partition.shardings import logical_axes, spec, unbox

TINY = dict(num_tokens=23, dim=16, depth=2, heads=2, dim_head=8, ff_mult=2, query_chunk=7)
B, L = 2, 12
TOKENS_BL = jax.random.randint(jax.random.key(7), (B, L), 0, TINY["num_tokens"])


@functools.cache
def params():
    """Parameters of PaLM(**TINY), with norm scales that are not their initial zeros."""
    variables = jax.jit(PaLM(**TINY).init)({"params": jax.random.key(0)}, TOKENS_BL)
    tree = unbox(variables)["params"]
    for part, name in ((tree["layers"], "norm"), (tree, "final_norm")):
        part[name] = 0.3 * jax.random.normal(jax.random.key(1), part[name].shape)
    return tree


@functools.cache
def compiled(method="__call__", **fields):
    """The compiled method of PaLM(**TINY, **fields)."""
    model = PaLM(**{**TINY, **fields})
    return jax.jit(functools.partial(model.apply, method=method))


@functools.cache
def logits_and_gradients(**fields):
    model = PaLM(**{**TINY, **fields})

    def objective(tree):
        logits_BLV = model.apply({"params": tree}, TOKENS_BL)
        return jnp.mean(jax.nn.logsumexp(logits_BLV, -1) ** 2), logits_BLV

    grads, logits_BLV = jax.jit(jax.grad(objective, has_aux=True))(params())
    return logits_BLV, grads


def assert_trees_close(got, want, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want)


def test_the_readme_example_of_the_seed_prints_its_shape_and_count(capsys):
    # As PaLM-flax's README has it, but for the import it leaves out and jax.tree, as it is now.
    import jax
    import numpy as np

    from palmscale import PaLM

    key = jax.random.PRNGKey(0)

    seq = jax.random.randint(key, (1, 1024), 0, 20000)

    model = PaLM(
        num_tokens = 20000,
        dim = 512,
        depth = 12,
        heads = 8,
        dim_head = 64
    )  # fmt: skip

    init_rngs = {'params': jax.random.PRNGKey(1),
                'dropout': jax.random.PRNGKey(2)}  # fmt: skip

    params = model.init(init_rngs, seq)
    output = model.apply(params, seq)
    print(output.shape)  # (1, 1024, 20000)

    n_params_flax = sum(
        jax.tree.leaves(jax.tree.map(lambda x: np.prod(x.shape), params))
    )  # fmt: skip
    print(f"Number of parameters in Flax model: {n_params_flax}")  # 55073280

    printed = capsys.readouterr().out.splitlines()
    assert printed == ["(1, 1024, 20000)", "Number of parameters in Flax model: 55073280"]


@pytest.mark.parametrize(
    "fields",
    [
        {"scan_layers": False},
        {"remat": "attention"},
        {"remat": "dots"},
        {"remat": "full"},
        {"remat": "full", "scan_layers": False},
        {"remat": ("norm", "query", "key", "value", "attention", "gate", "up")},
        {"remat": ("query", "attention")},
        {"query_chunk": 5},
        {"query_chunk": 100},
    ],
    ids=str,
)
def test_how_it_is_computed_changes_neither_logits_nor_gradients(fields):
    logits_BLV, grads = logits_and_gradients(**fields)
    want_BLV, want_grads = logits_and_gradients()
    np.testing.assert_allclose(logits_BLV, want_BLV, atol=1e-5)
    assert_trees_close(grads, want_grads, rtol=1e-4, atol=1e-5)
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(want_grads))


def test_scan_and_unrolled_layers_have_one_parameter_tree():
    shapes = [
        jax.eval_shape(PaLM(**TINY, scan_layers=scan).init, jax.random.key(0), TOKENS_BL)
        for scan in (True, False)
    ]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
    assert jax.tree.leaves(shapes[0]) == jax.tree.leaves(shapes[1])


def test_no_position_depends_on_a_later_one():
    # Each position has its own row of the table, so its gradient is the position's.
    table_LD = jax.random.normal(jax.random.key(3), (L, TINY["dim"]))
    direction_D = jax.random.normal(jax.random.key(4), (TINY["dim"],))
    hidden = compiled("hidden", num_tokens=L)

    def projected_L(table_LD):
        variables = {"params": {**params(), "embedding": table_LD}}
        return hidden(variables, jnp.arange(L)[None])[0] @ direction_D

    influence_LL = np.abs(jax.jacrev(projected_L)(table_LD)).max(axis=-1)
    assert np.all(influence_LL[np.triu_indices(L, 1)] == 0)
    assert np.all(influence_LL[np.tril_indices(L)] > 1e-6)


def test_packed_documents_equal_documents_in_rows_of_their_own():
    lengths = (5, 7)
    segment_BL = jnp.repeat(jnp.array([1, 2]), jnp.array(lengths), total_repeat_length=L)[None]
    position_BL = jnp.concatenate([jnp.arange(n) for n in lengths])[None]
    packed = compiled("hidden")({"params": params()}, TOKENS_BL[:1], segment_BL, position_BL)
    alone = [
        compiled("hidden")({"params": params()}, TOKENS_BL[:1, start:stop])
        for start, stop in ((0, 5), (5, 12))
    ]
    np.testing.assert_allclose(packed, jnp.concatenate(alone, axis=1), atol=1e-5)
    together = compiled("hidden")({"params": params()}, TOKENS_BL[:1])
    assert jnp.abs(packed - together)[:, 5:].max() > 0.01


def test_cached_decode_equals_the_full_forward():
    slots = L + 3
    shape = (TINY["depth"], B, slots, TINY["dim_head"])
    cache = Cache(jnp.zeros(shape), jnp.zeros(shape), jnp.int32(0))
    pieces = []
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, 12)):
        x_BLD, cache = compiled("extend")({"params": params()}, TOKENS_BL[:, start:stop], cache)
        pieces.append(x_BLD)
    whole = compiled("hidden")({"params": params()}, TOKENS_BL)
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), whole, atol=1e-5)
    assert cache.length == L
    assert jnp.all(cache.k_NBSK[:, :, L:] == 0)
    assert jnp.all(jnp.any(cache.k_NBSK[:, :, :L] != 0, axis=-1))


def test_cached_decode_with_xpos_equals_the_full_forward():
    model = PaLM(**TINY, rotary="xpos")
    shape = (TINY["depth"], B, L, TINY["dim_head"])
    cache = Cache(jnp.zeros(shape), jnp.zeros(shape), jnp.int32(0))
    extend = jax.jit(functools.partial(model.apply, method="extend"))
    pieces = []
    for start, stop in ((0, 6), (6, 12)):
        x_BLD, cache = extend({"params": params()}, TOKENS_BL[:, start:stop], cache)
        pieces.append(x_BLD)
    whole = jax.jit(functools.partial(model.apply, method="hidden"))(
        {"params": params()}, TOKENS_BL
    )
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), whole, atol=1e-5)
    rope = compiled("hidden")({"params": params()}, TOKENS_BL)
    assert jnp.abs(whole - rope).max() > 1e-3


def test_xpos_refuses_what_its_factors_cannot_express():
    model = PaLM(**TINY, rotary="xpos")
    with pytest.raises(UserError, match="xpos.* 32,768 positions at most, and these are 32,769"):
        jax.eval_shape(
            lambda p: model.apply({"params": p}, jnp.zeros((1, 32_769), jnp.int32)), params()
        )


def test_sequences_of_different_lengths_are_extended_together():
    slots, lengths = L, jnp.array([3, 6])
    shape = (TINY["depth"], B, slots, TINY["dim_head"])
    cache = Cache(jnp.zeros(shape), jnp.zeros(shape), jnp.int32(0))
    _, cache = compiled("extend")({"params": params()}, TOKENS_BL[:, :6], cache)
    cache = cache.replace(length=lengths)  # the first sequence overwrites what is after its third
    more_BL = jnp.stack([TOKENS_BL[b, n : n + 4] for b, n in enumerate(lengths.tolist())])
    x_BLD, cache = compiled("extend")({"params": params()}, more_BL, cache)
    whole_BLD = compiled("hidden")({"params": params()}, TOKENS_BL)
    for b, n in enumerate(lengths.tolist()):
        np.testing.assert_allclose(x_BLD[b], whole_BLD[b, n : n + 4], atol=1e-5)
    assert cache.length.tolist() == [7, 10]


def test_what_does_not_fit_a_cache_is_dropped_and_overwrites_nothing():
    shape = (TINY["depth"], B, 8, TINY["dim_head"])
    cache = Cache(jnp.zeros(shape), jnp.zeros(shape), jnp.int32(0))
    _, cache = compiled("extend")({"params": params()}, TOKENS_BL[:, :7], cache)
    _, more = compiled("extend")({"params": params()}, TOKENS_BL[:, 7:11], cache)
    np.testing.assert_array_equal(more.k_NBSK[:, :, :7], cache.k_NBSK[:, :, :7])


def test_layers_apart_extend_the_same():
    shape = (TINY["depth"], B, L, TINY["dim_head"])
    cache = Cache(jnp.zeros(shape), jnp.zeros(shape), jnp.int32(0))
    want_BLD, want = compiled("extend")({"params": params()}, TOKENS_BL, cache)
    apart = {
        **params(),
        "layers": tuple(
            jax.tree.map(lambda a, n=n: a[n], params()["layers"]) for n in range(TINY["depth"])
        ),
    }
    cache = Cache(tuple(cache.k_NBSK), tuple(cache.v_NBSK), cache.length)
    found_BLD, found = compiled("extend")({"decoding": apart}, TOKENS_BL, cache)
    np.testing.assert_allclose(found_BLD, want_BLD, atol=1e-5)
    np.testing.assert_allclose(jnp.stack(found.k_NBSK), want.k_NBSK, atol=1e-6)


def test_padded_tokens_get_no_probability_and_change_nothing_else():
    rows_VD = 100 * jax.random.normal(jax.random.key(5), (9, TINY["dim"]))
    tree = {**params(), "embedding": jnp.concatenate([params()["embedding"], rows_VD])}
    logits_BLV = compiled(padded_tokens=32)({"params": tree}, TOKENS_BL)
    assert logits_BLV.shape == (B, L, 32)
    p_BLV = jax.nn.softmax(logits_BLV)
    assert jnp.all(p_BLV[..., 23:] == 0)
    want_BLV = compiled()({"params": params()}, TOKENS_BL)
    np.testing.assert_allclose(logits_BLV[..., :23], want_BLV, atol=1e-5)
    np.testing.assert_allclose(p_BLV[..., :23], jax.nn.softmax(want_BLV), atol=1e-5)


def test_bfloat16_stays_close_to_float32_in_float32_logits():
    logits_BLV, grads = logits_and_gradients(dtype="bfloat16")
    want_BLV, want_grads = logits_and_gradients()
    assert logits_BLV.dtype == jnp.float32
    assert jnp.abs(logits_BLV - want_BLV).max() < 0.1
    assert jnp.abs(logits_BLV - want_BLV).max() > 0

    def distance(g, want):
        assert g.dtype == jnp.float32
        return jnp.linalg.norm(g - want) / jnp.linalg.norm(want)

    assert max(jax.tree.leaves(jax.tree.map(distance, grads, want_grads))) < 0.05


@pytest.mark.parametrize("output_fan_in", ["separate", "fused"])
@pytest.mark.parametrize("kernel_init", ["normal", "truncated_normal"])
def test_kernels_begin_with_variance_1_over_fan_in(kernel_init, output_fan_in):
    D, H, K, F = 64, 4, 24, 128
    model = PaLM(
        dim=D, num_tokens=200, depth=3, heads=H, dim_head=K, ff_mult=2,
        kernel_init=kernel_init, output_fan_in=output_fan_in,
    )  # fmt: skip
    layers = unbox(model.init_layers(jax.random.key(6)))
    fan_in = dict.fromkeys(("query", "key", "value", "gate", "up"), D)
    fan_in |= {"attention_out": H * K, "down": F}
    if output_fan_in == "fused":
        fan_in |= {"attention_out": H * K + F, "down": H * K + F}
    for name, inputs in fan_in.items():
        unit = layers[name] * np.sqrt(inputs)
        assert jnp.std(unit) == pytest.approx(1, rel=0.04), name
        assert (jnp.abs(unit).max() > 2.3) == (kernel_init == "normal"), name
        for i in range(3):
            assert jnp.corrcoef(unit[i].ravel(), unit[i - 1].ravel())[0, 1] < 0.1, name


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norms_begin_as_the_identity(offset):
    model = PaLM(**TINY, norm_scale_offset=offset)

    @jax.jit
    def initial_norms():
        tree = unbox(model.init(jax.random.key(0), TOKENS_BL))["params"]
        return tree["layers"]["norm"], tree["final_norm"]

    for scale in initial_norms():
        assert jnp.all(scale + offset == 1)


def test_embeddings_begin_with_their_std():
    model = PaLM(**{**TINY, "num_tokens": 500}, embedding_std=0.02)
    init = jax.jit(lambda key: unbox(model.init(key, TOKENS_BL))["params"]["embedding"])
    assert jnp.std(init(jax.random.key(0))) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("final_norm", ["unscaled", "none"])
def test_only_a_scaled_final_norm_has_a_parameter(final_norm):
    model = PaLM(**TINY, final_norm=final_norm)
    variables = jax.eval_shape(model.init, jax.random.key(0), TOKENS_BL)
    assert set(variables["params"]) == {"embedding", "layers"}


def test_dropout_needs_a_rate_and_an_rng():
    variables = {"params": params()}
    want = compiled("hidden")(variables, TOKENS_BL)
    dropping = compiled("hidden", dropout=0.5)
    np.testing.assert_array_equal(dropping(variables, TOKENS_BL), want)
    one, again, other = (
        dropping(variables, TOKENS_BL, rngs={"dropout": jax.random.key(seed)}) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert jnp.abs(one - other).max() > 0.1
    undropped = compiled("hidden")(variables, TOKENS_BL, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(undropped, want)


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    x = PaLM(**TINY, dropout=0.2).drop(jnp.ones((100, 100)), jax.random.key(0))
    assert jnp.mean(x == 0) == pytest.approx(0.2, abs=0.02)
    np.testing.assert_allclose(jnp.unique(x), [0, 1.25])


@pytest.mark.parametrize("table", TABLES)
def test_every_parameter_has_logical_axes_and_each_table_a_rule_for_them(table):
    boxed = jax.eval_shape(PaLM(**TINY).init, jax.random.key(0), TOKENS_BL)
    is_box = lambda leaf: isinstance(leaf, nn.Partitioned)  # noqa: E731
    leaves = jax.tree.leaves(boxed, is_leaf=is_box)
    assert len(leaves) == 10
    assert all(is_box(leaf) for leaf in leaves)
    for leaf in leaves:
        assert len(leaf.names) == leaf.value.ndim
        assert None not in leaf.names
        spec(leaf.names, TABLES[table])
    names = logical_axes(boxed)["params"]["layers"]
    assert {axes[0] for axes in names.values()} == {"layers"}


def test_attention_flops_are_counted_whole():
    paper_8b = PaLM(dim=4096, num_tokens=256_000, depth=32, dim_head=256, heads=16)
    assert paper_8b.attention_flops_per_token(2048) == 12 * 32 * 16 * 256 * 2048
