"""Tokens are drawn as plain numpy says, each row by its own values, on any mesh."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eight_devices import facts_on_eight_devices
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from palmscale.infer.draw import Rows, sample
from palmscale.infer.sampling import Sampling, bias_of, row_of
from palmscale.model.attention import MASKED_LOGIT

V, B = 8, 64  # of most tests: one program
DRAWS = 256 * B
draw = jax.jit(sample, static_argnames=("filters", "top"))


def rows_of(samplings, seeds, *, prompt=(), output=(), size=V, **more):
    """The rows of sequences that share a prompt and an output."""
    entries = [row_of(sampling, seed) for sampling, seed in zip(samplings, seeds, strict=True)]
    fields = {name: np.stack([entry[name] for entry in entries]) for name in entries[0]}
    count_V = np.bincount(np.array(output, int), minlength=size).astype(np.int32)
    seen_V = count_V + np.bincount(np.array(prompt, int), minlength=size) > 0
    fields["count_BV"] = np.tile(count_V, (len(entries), 1))
    fields["seen_BV"] = np.tile(seen_V, (len(entries), 1))
    fields["bias_BV"] = np.stack([bias_of(sampling, size) for sampling in samplings])
    fields["allowed_BV"] = np.ones((len(entries), size), bool)
    return Rows(**fields | more)


@functools.partial(jax.jit, static_argnames=("filters", "steps"))
def _draw_steps(logits_BV, rows, filters, steps):
    def at(position):
        position_B = jnp.full(len(logits_BV), position)
        return sample(logits_BV, rows, position_B, filters=filters, top=0).token_B

    return jax.lax.map(at, jnp.arange(steps))


def drawn(logits_V, sampling, draws=DRAWS, **more):
    """Token ids of many draws from the same logits."""
    logits_BV = np.tile(np.float32(logits_V), (B, 1))
    rows = rows_of([sampling] * B, range(B), **more)
    return np.asarray(_draw_steps(logits_BV, rows, True, DRAWS // B)).ravel()[:draws]


def reference(logits_V, sampling, prompt=(), output=()):
    """The distribution of the next token, in plain float64; and what is nearest to a border."""
    x_V = np.float64(logits_V)
    for token_id, bias in sampling.logit_bias:
        x_V[token_id] += bias
    for token_id in {*prompt, *output}:
        r = sampling.repetition_penalty
        x_V[token_id] = x_V[token_id] / r if x_V[token_id] > 0 else x_V[token_id] * r
    for token_id in set(output):
        x_V[token_id] -= sampling.presence_penalty
        x_V[token_id] -= sampling.frequency_penalty * list(output).count(token_id)
    x_V /= sampling.temperature
    likeliest = np.argsort(-x_V)[: sampling.top_k]
    p_V = np.zeros(len(x_V))
    p_V[likeliest] = np.exp(x_V[likeliest] - x_V.max())
    p_V /= p_V.sum()
    # Of equal logits a filter keeps all; here they would differ by their order.
    border = np.diff(np.sort(x_V)).min()
    if sampling.top_p is not None:
        total = np.cumsum(p_V[likeliest])
        border = min(border, np.abs(total - sampling.top_p).min())
        p_V[likeliest[np.searchsorted(total, sampling.top_p) + 1 :]] = 0
    if sampling.min_p is not None:
        share_V = p_V / p_V.max()
        border = min(border, np.abs(share_V - sampling.min_p).min())
        p_V[share_V < sampling.min_p] = 0
    return p_V / p_V.sum(), border


def check_frequencies(ids, p_V):
    """The draws follow the distribution: chi-square, with at most 1 failure in 10^6."""
    count_V = np.bincount(ids, minlength=len(p_V))
    assert not count_V[p_V == 0].any()
    expected_V = p_V * len(ids)
    is_rare_V = expected_V < 5
    assert count_V[is_rare_V].sum() <= expected_V[is_rare_V].sum() + 25
    often = ~is_rare_V
    chi_square = ((count_V[often] - expected_V[often]) ** 2 / expected_V[often]).sum()
    freedom = max(often.sum() - 1, 1)
    # Wilson and Hilferty's approximation of the quantile.
    bound = freedom * (1 - 2 / (9 * freedom) + 4.9 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert chi_square < bound


LOGITS = st.lists(st.integers(-20, 20), min_size=V, max_size=V, unique=True).map(
    lambda tenths: np.float32(tenths) / 5
)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0.5, 3),
    top_k=st.none() | st.integers(1, V + 2),
    top_p=st.none() | st.floats(0.05, 1),
    min_p=st.none() | st.floats(0, 1),
    repetition_penalty=st.floats(0.5, 2),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.lists(
        st.tuples(st.integers(0, V - 1), st.floats(-5, 5)),
        max_size=2,
        unique_by=lambda pair: pair[0],
    ).map(tuple),
)
IDS = st.lists(st.integers(0, V - 1), max_size=5)


@settings(deadline=None, max_examples=30)
@given(LOGITS, SAMPLINGS, IDS, IDS)
def test_draws_follow_the_plain_distribution_after_every_filter_and_penalty(
    logits_V, sampling, prompt, output
):
    p_V, border = reference(logits_V, sampling, prompt, output)
    assume(border > 1e-4)  # float32 may see it on the other side
    check_frequencies(drawn(logits_V, sampling, prompt=prompt, output=output), p_V)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"temperature": 1.5, "top_k": 6, "top_p": 0.9, "min_p": 0.1},
    ],
    ids=str,
)
def test_frequencies_match_the_softmax_by_chi_square(fields):
    logits_V = np.log(np.float32([8, 4, 2, 1.1, 1, 0.9, 0.8, 1e-9]))
    p_V, _ = reference(logits_V, Sampling(**fields))
    ids = drawn(logits_V, Sampling(**fields))
    assert len(ids) >= 10_000
    check_frequencies(ids, p_V)


def mixed_samplings():
    """64 rows of which no two ask for the same."""
    kinds = [
        {},
        {"temperature": 0.0},
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.05},
        {"repetition_penalty": 1.4},
        {"presence_penalty": 1.0, "frequency_penalty": 0.5},
        {"logit_bias": ((3, 2.0),)},
    ]
    return [Sampling(**{"temperature": 0.8 + n / B} | kinds[n % len(kinds)]) for n in range(B)]


def test_a_rows_draw_is_the_same_alone_and_among_63_others():
    size = 100
    random = np.random.default_rng(0)
    logits_BV = random.normal(size=(B, size)).astype("f4") * 3
    samplings, position_B = mixed_samplings(), np.arange(B, dtype=np.int32)
    rows = rows_of(samplings, range(B), prompt=range(9), output=(2, 2, 5), size=size)
    together = draw(logits_BV, rows, position_B, filters=True, top=3)
    for n in range(0, B, 3):
        sampling = samplings[n]
        # The others of the batch are idle slots; the row stands in another place, and nobody
        # filters or is penalized unless the row is.
        place = (n + 17) % B
        idle_rows = rows_of(
            [sampling if row == place else Sampling() for row in range(B)],
            [n if row == place else 0 for row in range(B)],
            prompt=range(9),
            output=(2, 2, 5),
            size=size,
        )
        if not sampling.penalizes:
            idle_rows = idle_rows.replace(seen_BV=None, count_BV=None)
        if not sampling.logit_bias:
            idle_rows = idle_rows.replace(bias_BV=None, allowed_BV=None)
        idle_BV = np.zeros_like(logits_BV)
        idle_BV[place] = logits_BV[n]
        at_B = np.full(B, n, np.int32)
        alone = draw(idle_BV, idle_rows, at_B, filters=sampling.filters, top=3)
        for of_all, of_one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(of_all[n], of_one[place])


def test_the_seed_and_the_position_decide_the_draw():
    logits_BV = np.zeros((B, 100), np.float32)
    rows = rows_of([Sampling()] * B, range(B), size=100)
    first, again, later = (
        draw(logits_BV, rows, np.full(B, position, np.int32), filters=False, top=0).token_B
        for position in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != later).mean() > 0.9 and len(set(first.tolist())) > 30


def test_log_probabilities_are_the_models_own_with_the_likeliest_beside():
    random = np.random.default_rng(1)
    logits_BV = random.normal(size=(B, V)).astype("f4") * 3
    sampling = Sampling(temperature=0.3, top_k=2, repetition_penalty=2.0, logit_bias=((1, 9.0),))
    rows = rows_of([sampling] * B, range(B), output=(1, 2))
    found = draw(logits_BV, rows, np.zeros(B, np.int32), filters=True, top=3)
    wanted_BV = np.float64(logits_BV)
    wanted_BV -= np.log(np.exp(wanted_BV).sum(-1, keepdims=True))
    row_B = np.arange(B)
    np.testing.assert_allclose(
        found.log_probability_B, wanted_BV[row_B, np.asarray(found.token_B)], atol=1e-5
    )
    order_BV = np.argsort(-wanted_BV, axis=1)[:, :3]
    np.testing.assert_array_equal(found.top_ids_BK, order_BV)
    np.testing.assert_allclose(
        found.top_log_probabilities_BK, wanted_BV[row_B[:, None], order_BV], atol=1e-5
    )
    none = draw(logits_BV, rows, np.zeros(B, np.int32), filters=True, top=0)
    assert none.top_ids_BK.shape == none.top_log_probabilities_BK.shape == (B, 0)


def test_only_allowed_ids_are_drawn():
    allowed_V = np.array([False, True, False, True] + [False] * 4)
    allowed_BV = np.tile(allowed_V, (B, 1))
    logits_V = np.float32([9, 0, 9, 0, 9, 9, 9, 9])
    assert set(drawn(logits_V, Sampling(), allowed_BV=allowed_BV)) == {1, 3}
    assert set(drawn(logits_V, Sampling(top_p=0.9), allowed_BV=allowed_BV)) == {1, 3}
    logits_V[3] = 1
    assert set(drawn(logits_V, Sampling(temperature=0), allowed_BV=allowed_BV)) == {3}


def test_greedy_takes_the_largest_after_penalties_and_bias():
    logits_V = np.float32(np.arange(V))
    greedy = functools.partial(Sampling, temperature=0)
    assert set(drawn(logits_V, greedy())) == {7}
    assert set(drawn(logits_V, greedy(repetition_penalty=2.0), prompt=(7,))) == {6}
    assert set(drawn(logits_V, greedy(presence_penalty=1.5), output=(7, 7))) == {6}
    assert set(drawn(logits_V, greedy(frequency_penalty=1.0), output=(7, 7, 7, 6))) == {5}
    assert set(drawn(logits_V, greedy(logit_bias=((2, 100.0),)))) == {2}


def test_what_is_drawn_is_counted_where_the_row_is_alive():
    rows = jax.tree.map(jnp.asarray, rows_of([Sampling()] * 2, range(2), prompt=(0,), output=(1,)))
    rows = rows.after(jnp.array([1, 4]), jnp.array([True, False]))
    np.testing.assert_array_equal(rows.count_BV[:, :5], [[0, 2, 0, 0, 0], [0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(rows.seen_BV[:, :5], [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0]])
    rows = rows.after(jnp.array([3, 4]), jnp.array([True, True]))
    np.testing.assert_array_equal(rows.seen_BV[:, :5], [[1, 1, 0, 1, 0], [1, 1, 0, 0, 1]])
    bare = rows.replace(seen_BV=None, count_BV=None)
    assert bare.after(jnp.array([3, 4]), jnp.array([True, True])) is bare


def test_a_vocabulary_is_never_sorted():
    logits_BV, position_B = np.zeros((B, V), np.float32), np.zeros(B, np.int32)
    rows = rows_of([Sampling(temperature=0)] * B, range(B))
    for filters in True, False:
        program = draw.lower(logits_BV, rows, position_B, filters=filters, top=0).as_text()
        assert "stablehlo.sort" not in program


@settings(deadline=None, max_examples=5)
@given(LOGITS)
def test_top_k_of_one_and_a_tiny_top_p_and_no_temperature_are_all_greedy(logits_V):
    for fields in {"top_k": 1}, {"top_p": 1e-6}, {"top_p": 1e-45}, {"min_p": 1}, {"temperature": 0}:
        rows = rows_of([Sampling(**fields)] * B, range(B))
        logits_BV, position_B = np.tile(logits_V, (B, 1)), np.arange(B, dtype=np.int32)
        found = draw(logits_BV, rows, position_B, filters=True, top=0).token_B
        assert set(np.asarray(found)) == {logits_V.argmax()}


def test_bfloat16_logits_are_sampled_in_float32():
    logits_BV = jnp.asarray([[0.0, 100.0, 100.5, 0.0]], jnp.bfloat16)
    rows = rows_of([Sampling(top_p=1e-6)], [0], size=4)
    assert draw(logits_BV, rows, np.zeros(1, np.int32), filters=True, top=0).token_B == 2


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-38, 1e-12])
def test_a_temperature_near_0_is_greedy(temperature):
    logits_V = np.float32([-3, 100, 99.5, 0, 1, 2, 99, -1e10])
    assert set(drawn(logits_V, Sampling(temperature=temperature))) == {1}


@pytest.mark.parametrize("temperature", [1e10, 1e38, 1e300])
@pytest.mark.parametrize("more", [{}, {"top_k": 7}, {"top_p": 0.99}, {"logit_bias": ((7, 100),)}])
def test_no_temperature_draws_what_the_model_has_masked(temperature, more):
    logits_V = np.float32([-3, 5, 2, 0, 1, MASKED_LOGIT, MASKED_LOGIT, MASKED_LOGIT])
    assert set(drawn(logits_V, Sampling(temperature=temperature, **more))) == {0, 1, 2, 3, 4}


def mesh_facts():
    """Run with eight devices: 10,240 draws from logits that each mesh computes in its own order."""
    size, width, batch = 64, 64, 2560
    random = np.random.default_rng(0)
    x_BD = random.normal(size=(batch, width)).astype("f4")
    w_DV = random.normal(size=(width, size)).astype("f4") / 4
    kinds = [{}, {"top_k": 40}, {"top_p": 0.9, "min_p": 0.01}, {"temperature": 0}]
    samplings = [Sampling(**kinds[n % len(kinds)]) for n in range(batch)]
    rows = rows_of(samplings, range(batch), prompt=(3,), output=(5, 5), size=size)

    @jax.jit
    def on_mesh(x_BD, w_DV, rows, position_B):
        return sample(x_BD @ w_DV, rows, position_B, filters=True, top=2)

    facts = {}
    for devices, model in ((1, 1), (2, 2), (8, 4)):
        mesh = jax.sharding.Mesh(
            np.array(jax.devices()[:devices]).reshape(-1, model), ("data", "model")
        )
        place = lambda a, *spec: jax.device_put(a, NamedSharding(mesh, PartitionSpec(*spec)))  # noqa: B023, E731
        found = [
            on_mesh(
                place(x_BD, None, "data"),
                place(w_DV, "data", "model"),
                jax.tree.map(place, rows),
                place(np.full(batch, position, np.int32)),
            )
            for position in range(4)
        ]
        facts[f"{devices} by {model}"] = [
            np.concatenate([getattr(drawn, name) for drawn in found]).tolist()
            for name in ("token_B", "log_probability_B", "top_log_probabilities_BK")
        ]
    logits_BV = place(x_BD[:8] @ w_DV, None, "model")
    few_rows = jax.tree.map(lambda a: place(a[:8]), rows)
    arguments = (logits_BV, few_rows, place(np.arange(8, dtype=np.int32)))
    program = draw.lower(*arguments, filters=True, top=0).compile().as_text()
    facts["gathered"] = re.findall(r"= \w+\[([\d,]+)\]\S* all-(?:gather|to-all)\(", program)
    return facts


@pytest.fixture(scope="module")
def on_meshes():
    return facts_on_eight_devices(mesh_facts)


def test_no_logits_of_a_sharded_vocabulary_are_gathered(on_meshes):
    """Only the largest of each part are: one of each of 8 sequences and 4 devices."""
    assert set(on_meshes["gathered"]) == {"8,4"}


@pytest.mark.parametrize("mesh", ["2 by 2", "8 by 4"])
def test_a_sharded_vocabulary_draws_what_one_device_draws(on_meshes, mesh):
    tokens, log_probabilities, top = map(np.array, on_meshes[mesh])
    wanted_tokens, wanted_log_probabilities, wanted_top = map(np.array, on_meshes["1 by 1"])
    assert len(tokens) >= 10_000 and len(set(tokens.tolist())) > 50
    same = tokens == wanted_tokens
    assert same.mean() >= 0.999
    np.testing.assert_allclose(log_probabilities[same], wanted_log_probabilities[same], atol=1e-5)
    np.testing.assert_allclose(top, wanted_top, atol=1e-5)
