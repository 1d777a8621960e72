"""Generation on several devices: where arrays lie, and the same results as on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eight_devices import facts_on_eight_devices

from palmscale import PaLM, axes
from palmscale.infer.engine import Engine
from palmscale.infer.layouts import stored_rules
from palmscale.infer.likelihoods import Pair, likelihoods
from palmscale.infer.partition import (
    generation_layout,
    generation_rules,
    known_dimensions,
    parameter_bytes,
    phase,
    placed,
)
from palmscale.infer.request import Request
from palmscale.infer.sampling import Sampling
from palmscale.infer.weights import abstract_form, decoding_form
from palmscale.model.attention import Cache
from palmscale.partition.layout import DeviceLayout
from palmscale.partition.mesh import MeshSpec, make_mesh
from palmscale.partition.rules import layout_rules
from palmscale.partition.shardings import spec, unbox
from palmscale.train.state import abstract_params

MODEL = PaLM(num_tokens=40, dim=16, depth=2, heads=4, dim_head=8)
LENGTHS = (3, 7, 1, 5, 2, 6, 4, 8)  # of eight ragged sequences
PROMPT, SLOTS = 8, 12
RULES = layout_rules("2d")


def laid_out(model, boxed, *, table, data, tensor, devices):
    mesh = make_mesh(MeshSpec(data=data, model=tensor), devices)
    rules = generation_rules(stored_rules(RULES, table), boxed, mesh.shape)
    return DeviceLayout(mesh=mesh, rules=rules)


def extender(model, layout, sequences, new_tokens, table=None):
    """A function of (params, tokens_BL, cache) that extends the cache, and its choice of layout."""
    chosen, choice = phase(
        # Weights of no bytes are worth gathering, heavy ones are not.
        model, layout, sequences=sequences, new_tokens=new_tokens,
        weight_bytes=0.0 if table == "weights_gathered" else 1e9,
    )  # fmt: skip

    @functools.partial(jax.jit, donate_argnums=2)
    def run(params, tokens_BL, cache):
        x_BLD, cache = model.apply({"params": params}, tokens_BL, cache, method="extend")
        return model.apply({"params": params}, x_BLD, method="unembed"), cache

    def extend(*arguments):
        with chosen.entered():
            logits, cache = run(*arguments)
        return np.asarray(logits), cache

    return extend, choice


def cached_logits(model, layout, params, tokens_BL, prefill_table):
    """Logits of every position: a prompt of ragged lengths, then tokens one by one."""
    sequences, total = tokens_BL.shape
    prefill, chosen_prefill = extender(model, layout, sequences, PROMPT, prefill_table)
    decode, chosen_decode = extender(model, layout, sequences, 1)
    shape = (model.depth, sequences, SLOTS, model.dim_head)
    dims = spec((None, axes.CACHE_BATCH, None, None), chosen_decode.rules)
    sharding = jax.NamedSharding(layout.mesh, dims)
    keys, values = (jnp.zeros(shape, device=sharding) for _ in range(2))
    cache = Cache(keys, values, jnp.zeros(sequences, jnp.int32))
    logits, cache = prefill(params, tokens_BL[:, :PROMPT], cache)
    found = np.zeros((sequences, total, model.num_tokens), np.float32)
    lengths = np.array(LENGTHS[:sequences])
    for row, length in enumerate(lengths):
        found[row, :length] = logits[row, :length]
    cache = cache.replace(length=jnp.asarray(lengths, jnp.int32))
    for step in range(3):
        at = lengths + step
        tokens_B1 = np.take_along_axis(np.asarray(tokens_BL), at[:, None], axis=1)
        logits, cache = decode(params, jnp.asarray(tokens_B1), cache)
        found[np.arange(sequences), at] = logits[:, 0]
    parts = cache.k_NBSK.nbytes // cache.k_NBSK.addressable_shards[0].data.nbytes
    return found, lengths + 3, chosen_prefill.table, chosen_decode.table, parts


def told(variables, layout=None):
    """(tokens, log-probabilities) of prompts side by side, the second of which begins alike.

    The last log-probabilities are those of whole continuations, as `likelihoods` gives them.
    """
    engine = Engine(
        model=MODEL, variables=variables, layout=layout, slots=8, context_length=32,
        prefill_chunk=16,
    )  # fmt: skip
    requests = [
        Request(prompt=np.arange(1, length, dtype=np.int32), max_tokens=6, sampling=sampling,
                top_log_probabilities=0, score_from=1, seed=7)
        for length, sampling in ((21, Sampling(temperature=0.0)), (25, Sampling()))
    ]  # fmt: skip
    tokens = []
    for _, output in engine.run(requests):
        tokens += [*(output.prompt or ()), *output.tokens]
    pairs = [Pair(range(1, 2 + n % 3), range(2, 2 + n)) for n in range(1, 9)]
    found = likelihoods(
        model=MODEL, variables=variables, layout=layout, pairs=pairs, sequences=8
    )  # fmt: skip
    log_p = [one.log_probability for one in (*tokens, *found)]
    return [*(token.id for token in tokens), *(one.is_greedy for one in found)], log_p


CASES = {
    "1d on 8": dict(table="weights_1d", data=1, tensor=8, count=8),
    "2d on 2 x 4": dict(table="weights_2d", data=2, tensor=4, count=8),
    "2d on 4 x 2, gathered": dict(
        table="weights_2d", data=4, tensor=2, count=8, prefill="weights_gathered"
    ),
    "as trained on 2 x 4": dict(table=None, data=2, tensor=4, count=8),
    "2d on 2 x 1, gathered": dict(
        table="weights_2d", data=2, tensor=1, count=2, prefill="weights_gathered"
    ),
    "1d on 1": dict(table="weights_1d", data=1, tensor=1, count=1),
    "1d on 3": dict(table="weights_1d", data=1, tensor=3, count=3),
    "one sequence, 2d on 2 x 4": dict(table="weights_2d", data=2, tensor=4, count=8, sequences=1),
    "four sequences, 2d on 2 x 4": dict(table="weights_2d", data=2, tensor=4, count=8, sequences=4),
    "six sequences, 1d on 8": dict(table="weights_1d", data=1, tensor=8, count=8, sequences=6),
}


ENGINES = ("1d on 8", "2d on 2 x 4")


def spread_facts():
    """Run with eight devices."""
    boxed = abstract_params(MODEL)
    tokens_BL = jax.random.randint(jax.random.key(1), (8, SLOTS), 0, MODEL.num_tokens)
    params = jax.device_get(unbox(MODEL.init({"params": jax.random.key(0)}, tokens_BL)["params"]))
    whole = np.asarray(MODEL.apply({"params": params}, tokens_BL))
    facts = {}
    ids, log_probabilities = told({"params": params})
    for name, case in CASES.items():
        layout = laid_out(
            MODEL, boxed, table=case["table"], data=case["data"], tensor=case["tensor"],
            devices=jax.devices()[: case["count"]],
        )  # fmt: skip
        shapes = placed(boxed, layout)
        on_mesh = jax.tree.map(lambda a, s: jax.device_put(a, s.sharding), params, shapes)
        sequences = case.get("sequences", 8)
        found, lengths, prefill, decode, parts = cached_logits(
            MODEL, layout, on_mesh, tokens_BL[:sequences], case.get("prefill")
        )
        error = max(
            float(np.abs(found[row, :length] - whole[row, :length]).max())
            for row, length in enumerate(lengths)
        )
        gate = on_mesh["layers"]["gate"]
        if name in ENGINES:
            _, variables = decoding_form(MODEL, on_mesh, apart=True)
            found_ids, found_log_p = told(variables, layout)
            difference = np.abs(np.subtract(found_log_p, log_probabilities)).max()
            facts[f"forms, {name}"] = lie_as_planned(on_mesh, shapes)
            facts[f"engine, {name}"] = [found_ids == ids, float(difference)]
        facts[name] = dict(
            error=error, prefill=prefill, decode=decode, cache_parts=parts,
            weight_parts=gate.size // gate.addressable_shards[0].data.size,
        )  # fmt: skip
    return facts


def lie_as_planned(params, shapes):
    """Of each form, whether all of its arrays have the shape and sharding of `abstract_form`."""
    found = []
    for form in (dict(), dict(apart=True), dict(apart=True, quantize="int8")):
        _, variables = decoding_form(MODEL, params, **form)
        _, planned = abstract_form(MODEL, shapes, **form)
        alike = jax.tree.map(
            lambda a, s: (
                a.shape == s.shape
                and a.dtype == s.dtype
                and a.sharding.is_equivalent_to(s.sharding, a.ndim)
            ),
            variables,
            planned,
        )
        found.append(all(jax.tree.leaves(alike)))
    return found


@pytest.fixture(scope="module")
def facts():
    return facts_on_eight_devices(spread_facts)


@pytest.mark.parametrize("case", CASES)
def test_cached_decode_equals_the_full_forward_pass(facts, case):
    assert facts[case]["error"] < 1e-5


@pytest.mark.parametrize("case", ENGINES)
def test_an_engine_and_likelihoods_tell_the_tokens_and_log_probabilities_of_one_device(facts, case):
    same_tokens, difference = facts[f"engine, {case}"]
    assert same_tokens and difference < 1e-5


@pytest.mark.parametrize("case", ENGINES)
def test_the_form_for_generation_lies_as_its_plan_says(facts, case):
    assert facts[f"forms, {case}"] == [True, True, True]


@pytest.mark.parametrize(
    ("case", "prefill", "decode", "weights", "cache"),
    [
        ("1d on 8", "weights_1d", "weights_1d", 8, 8),
        ("2d on 2 x 4", "weights_2d", "weights_2d", 8, 8),
        ("2d on 4 x 2, gathered", "weights_gathered", "weights_2d", 8, 8),
        ("one sequence, 2d on 2 x 4", "weights_2d", "weights_2d", 8, 1),
        ("four sequences, 2d on 2 x 4", "weights_2d", "weights_2d", 8, 4),
        ("six sequences, 1d on 8", "weights_1d", "weights_1d", 8, 1),
        ("1d on 3", "weights_1d", "weights_1d", 1, 1),
    ],
)
def test_weights_stay_where_they_are_and_the_cache_is_split_over_sequences(
    facts, case, prefill, decode, weights, cache
):
    assert facts[case] == facts[case] | dict(
        prefill=prefill, decode=decode, weight_parts=weights, cache_parts=cache
    )


def test_axes_of_a_users_own_module_lie_as_in_training():
    own = PaLM(num_tokens=40, dim=16, depth=2, heads=4, dim_head=8)
    boxed = abstract_params(own)
    box = boxed["layers"]["gate"]
    boxed["layers"]["gate"] = box.replace(names=(axes.LAYERS, "experts", axes.MLP))
    assert known_dimensions(own, boxed) is None
    trained = RULES | {"experts": axes.DATA, axes.EMBED: None}
    layout = generation_layout(
        own, boxed, trained_mesh={"data": 1, "model": 1}, trained_rules=trained
    )
    assert layout.rules["experts"] == axes.DATA and layout.rules[axes.MLP] == axes.MODEL


def test_the_bytes_of_parameters_are_counted_without_having_them():
    shapes = {"a": jax.ShapeDtypeStruct((3, 4), "bfloat16"), "b": jax.ShapeDtypeStruct((), "int32")}
    assert parameter_bytes(shapes) == 28
