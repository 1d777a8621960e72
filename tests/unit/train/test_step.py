"""One step: alike on every mesh and in any number of parts, and harmless where it is not finite."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eight_devices import facts_on_eight_devices
from flax import linen as nn
from tiny_training import BOS, LENGTH, MODEL, VOCABULARY, Z_LOSS, targets, training

from palmscale import axes
from palmscale.data.stream import Batch
from palmscale.model.lora import Lora, base_paths
from palmscale.model.palm import pin_residual
from palmscale.partition.rules import layout_rules
from palmscale.partition.shardings import path_name
from palmscale.train.state import TrainState, init_state
from palmscale.train.step import split_rows, sum_over_parts, token_weights

MESHES = [(1, 1), (8, 1), (4, 2), (2, 4), (1, 8)]
ROWS, STEPS = 16, 20
SHARED = {"layers/key", "layers/value"}  # their dims leave only `data`
LARGE_BYTES = 1024


def batches():
    """(targets, weights) of each step; a quarter of the tokens, unevenly spread, do not count."""
    random = np.random.default_rng(0)
    density = np.linspace(0.5, 1.0, ROWS)[:, None]
    for step in range(STEPS):
        weight_BL = (random.random((ROWS, LENGTH)) < density).astype(np.float32)
        yield targets(ROWS, seed=step), weight_BL


def leaves(tree):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def host(tree):
    return jax.tree.map(np.array, tree)


def same_bits(left, right):
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


def floats(metrics):
    return {name: float(value) for name, value in metrics.items()}


def step_facts():
    """Run with eight devices."""
    with training(1, 1) as here:
        start = host(init_state(here.plan, MODEL, seed=0))
    facts = {"losses": {}, "parts": {}}
    for data, model in MESHES:
        with training(data, model) as here:
            state, losses = here.placed(start), []
            for target_BL, weight_BL in batches():
                state, metrics = here.step(state, here.batch(target_BL, weight_BL))
                losses.append(float(metrics["loss"]))  # waits: simulated devices must not overlap
            facts["losses"][f"{data}x{model}"] = losses
            if (data, model) == (4, 2):
                facts |= placement_facts(state) | step_on_4x2_facts(here, start)
                facts["parts"]["1"] = part_facts(here, start)
                facts["split"] = split_facts(here)
            if (data, model) == (1, 1):
                facts["metrics"] = metric_facts(here, start)
    for parts in 2, 4:
        with training(4, 2, gradient_accumulation_steps=parts) as here:
            facts["parts"][str(parts)] = part_facts(here, start)
    facts |= {"dropout": dropout_facts(start), "layouts": layout_facts(start)}
    return facts | {"adapters": adapter_facts(start)}


def adapter_facts(start):
    """Two steps with adapters on two meshes: losses, what changed, and where parts lie."""
    lora = Lora(rank=2, alpha=4.0, targets=("query", "attention_out", "down"))
    facts = {"losses": {}}
    for data, model in (1, 1), (4, 2):
        with training(data, model, trainable=lora) as here:
            shardings = leaves(here.plan.shardings.params)
            own = base_paths(here.plan.abstract.params)
            given = {
                own[path]: jax.device_put(leaf, shardings[own[path]])
                for path, leaf in leaves(start.params).items()
            }
            state, losses = init_state(here.plan, MODEL, seed=0, given=given), []
            before = leaves(host(state.params))
            for target_BL, weight_BL in itertools.islice(batches(), 2):
                state, metrics = here.step(state, here.batch(target_BL, weight_BL))
                losses.append(float(metrics["loss"]))
        facts["losses"][f"{data}x{model}"] = losses
    after = leaves(state.params)
    return facts | {
        "given": sorted(given),
        "changed": sorted(path for path in after if not same_bits(before[path], after[path])),
        "optimizer": sorted(leaves(state.optimizer_state)),
        "specs": {path: str(leaf.sharding.spec) for path, leaf in after.items()},
        "shards": {
            path: [leaf.size, leaf.addressable_shards[0].data.size] for path, leaf in after.items()
        },
    }


LAYOUTS = {
    "residual by width": {},
    "residual by sequence": {axes.ACT_LENGTH: axes.MODEL, axes.ACT_EMBED: None},
    "residual whole": {axes.ACT_EMBED: None},
    "vocabulary over data": {axes.VOCAB: axes.DATA, axes.VOCAB_EMBED: axes.MODEL},
}


def layout_facts(start):
    """The first step's metrics on 4x2 by layout, and where the residual stream then lies."""
    facts = {}
    for name, overrides in LAYOUTS.items():
        rules = layout_rules("2d", overrides)
        with training(4, 2, rules=rules) as here:
            _, metrics = here.step(here.placed(start), here.batch(*next(batches())))
            # A function of its own: rules are not among what a trace is kept by.
            pin = jax.jit(lambda x_BLD: pin_residual(x_BLD))
            x_BLD = pin(jnp.zeros((ROWS, LENGTH, MODEL.dim)))
            facts[name] = {
                "metrics": floats(metrics),
                "residual": list(x_BLD.sharding.shard_shape(x_BLD.shape)),
            }
    return facts


def placement_facts(state):
    """Shares of each array's bytes on each device."""
    shares = {}
    for name, leaf in leaves(state).items():
        share = [shard.data.nbytes / leaf.nbytes for shard in leaf.addressable_shards]
        shares[name] = [leaf.nbytes, len(share), min(share), max(share)]
    return {"shares": shares}


def step_on_4x2_facts(here, start):
    batch = here.batch(*next(batches()))
    state = here.placed(start)
    new, _ = jax.block_until_ready(here.step(state, batch))
    deleted = {name: leaf.is_deleted() for name, leaf in leaves(state).items()}
    moved = {n: not same_bits(leaf, leaves(start)[n]) for n, leaf in leaves(new).items()}
    # An infinite embedding makes the loss NaN; a NaN among the weights does so too.
    broken = dataclasses.replace(host(new))
    broken.params["embedding"][3, 4] = np.inf
    weight_BL = np.ones((ROWS, LENGTH), np.float32)
    weight_BL[2, 1] = np.nan
    skips = []
    for before, weights in (broken, np.ones_like(weight_BL)), (host(new), weight_BL):
        after, metrics = here.step(here.placed(before), here.batch(targets(ROWS), weights))
        skips.append(
            {
                "skipped": float(metrics["skipped"]),
                "params_kept": same_bits(after.params, before.params),
                "optimizer_kept": same_bits(after.optimizer_state, before.optimizer_state),
                "steps": [int(before.step), int(after.step)],
            }
        )
    return {"deleted": deleted, "moved": moved, "skips": skips}


def part_facts(here, start):
    """The second moment after the first step is the squared gradient, clipped."""
    state, metrics = here.step(here.placed(start), here.batch(*next(batches())))
    second = leaves(state.optimizer_state[1].v)
    gradient = {name: np.sqrt(np.asarray(v)).ravel().tolist() for name, v in second.items()}
    return {"metrics": floats(metrics), "gradient": gradient}


def split_facts(here):
    rows_BL = here.batch(np.arange(ROWS * 2, dtype=np.int32).reshape(ROWS, 2)).target_BL
    facts = {}
    for parts in 2, 4:
        compiled = jax.jit(lambda a, parts=parts: split_rows(a, parts)).lower(rows_BL).compile()
        split = compiled(rows_BL)
        own = {shard.device.id: set(np.ravel(shard.data)) for shard in rows_BL.addressable_shards}
        facts[parts] = {
            "collectives": [
                c for c in ("all-", "collective", "scatter") if c in compiled.as_text()
            ],
            "own_rows": all(
                set(np.ravel(shard.data)) == own[shard.device.id]
                and shard.data.shape == (parts, ROWS // parts // 4, 2)
                for shard in split.addressable_shards
            ),
        }
    return facts


def metric_facts(here, start):
    """The step's metrics beside those worked out from whole logits in NumPy."""
    target_BL, weight_BL = next(batches())
    params = jax.tree.map(jnp.asarray, start.params)
    input_BL = np.pad(target_BL[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)

    def plain_loss(params):
        logits_BLV = MODEL.apply({"params": params}, input_BL)
        log_z_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
        logit_BL = jnp.take_along_axis(logits_BLV, target_BL[..., None], axis=-1)[..., 0]
        per_token_BL = log_z_BL - logit_BL + Z_LOSS * log_z_BL**2
        return jnp.sum(weight_BL * per_token_BL) / weight_BL.sum(), logits_BLV

    grads, logits_BLV = jax.jit(jax.grad(plain_loss, has_aux=True))(params)
    logits_BLV = np.float64(logits_BLV)
    log_z_BL = np.log(np.exp(logits_BLV).sum(-1))
    logit_BL = np.take_along_axis(logits_BLV, target_BL[..., None], axis=-1)[..., 0]
    mean = lambda a_BL: float((weight_BL * a_BL).sum() / weight_BL.sum())  # noqa: E731
    norm = lambda tree: float(  # noqa: E731
        np.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(tree)))
    )
    after, metrics = here.step(here.placed(start), here.batch(target_BL, weight_BL))
    want = {
        "loss": mean(log_z_BL - logit_BL),
        "z_loss": mean(Z_LOSS * log_z_BL**2),
        "accuracy": mean(logits_BLV.argmax(-1) == target_BL),
        "grad_norm": norm(grads),
        "param_norm": norm(after.params),
        "update_norm": norm(jax.tree.map(lambda a, b: np.float64(a) - b, after.params, params)),
        "tokens": float(weight_BL.sum()),
        "skipped": 0.0,
    }
    return {"step": floats(metrics), "plain": want}


def dropout_facts(start):
    """The loss of the same parameters and batch, by mesh, seed of the run and step."""
    model, losses = MODEL.clone(dropout=0.5), {}
    for (data, axis), seed, steps in ((1, 1), 0, (0, 0, 1)), ((1, 1), 7, (0,)), ((4, 2), 0, (0,)):
        with training(data, axis, module=model, seed=seed) as here:
            for step in steps:
                state = here.placed(dataclasses.replace(start, step=np.int32(step)))
                _, metrics = here.step(state, here.batch(*next(batches())))
                losses.setdefault(f"{data}x{axis} {seed} {step}", []).append(float(metrics["loss"]))
    return losses


@pytest.fixture(scope="module")
def facts():
    return facts_on_eight_devices(step_facts)


def test_twenty_steps_agree_on_every_mesh(facts):
    alone = facts["losses"]["1x1"]
    assert len(alone) == STEPS and alone[-1] < alone[0] - 0.3
    for mesh, losses in facts["losses"].items():
        np.testing.assert_allclose(losses, alone, rtol=1e-5, err_msg=mesh)
    assert list(facts["losses"]) == [f"{data}x{model}" for data, model in MESHES]


def test_on_4x2_large_parameters_and_their_moments_have_an_eighth_on_each_device(facts):
    large = 0
    for name, (nbytes, shards, smallest, largest) in facts["shares"].items():
        assert shards == 8 and smallest == largest, name
        if any(name.endswith(shared) for shared in SHARED):
            assert largest == 1 / 4, name
        elif nbytes >= LARGE_BYTES:
            assert largest == 1 / 8, name
            large += 1
    assert large == 3 * 6  # parameters and both moments


def test_every_layout_computes_the_same_and_the_residual_lies_where_the_rules_say(facts):
    want = facts["layouts"]["residual by width"]["metrics"]
    for name, found in facts["layouts"].items():
        for metric, value in want.items():
            np.testing.assert_allclose(
                found["metrics"][metric], value, rtol=1e-4, atol=1e-6, err_msg=f"{name} {metric}"
            )
    residual = {name: found["residual"] for name, found in facts["layouts"].items()}
    rows, width = ROWS // 4, MODEL.dim
    assert residual["residual by width"] == [rows, LENGTH, width // 2]
    assert residual["residual by sequence"] == [rows, LENGTH // 2, width]
    assert residual["residual whole"] == [rows, LENGTH, width]


def test_donated_buffers_are_deleted_on_all_devices(facts):
    assert all(facts["moved"].values()), facts["moved"]
    assert all(facts["deleted"].values()), facts["deleted"]


def test_a_step_that_is_not_finite_keeps_the_old_bits_and_counts(facts):
    for skip in facts["skips"]:
        assert skip["skipped"] == 1.0
        assert skip["params_kept"] and skip["optimizer_kept"]
        assert skip["steps"] == [1, 2]


def test_accumulated_gradients_give_the_whole_batchs_gradient_and_metrics(facts):
    """Weights are uneven, so that a mean of the parts' means would show."""
    whole = facts["parts"]["1"]
    assert len(facts["parts"]) == 3
    for parts, found in facts["parts"].items():
        for name, value in whole["metrics"].items():
            np.testing.assert_allclose(found["metrics"][name], value, rtol=1e-6, err_msg=name)
        for name, gradient in whole["gradient"].items():
            tolerance = 1e-6 * max(gradient)
            np.testing.assert_allclose(
                found["gradient"][name], gradient, rtol=0, atol=tolerance, err_msg=f"{parts} {name}"
            )


def test_splitting_a_batch_keeps_each_devices_rows_on_it(facts):
    for split in facts["split"].values():
        assert split == {"collectives": [], "own_rows": True}


def test_parts_are_every_nth_row():
    a_B = np.arange(12).reshape(6, 2)
    split = split_rows(a_B, 3)
    for part in range(3):
        np.testing.assert_array_equal(split[part], a_B[part::3])


def test_each_part_has_its_own_key_and_a_batch_keeps_what_it_lacks():
    batch = Batch(target_BL=jnp.arange(8.0).reshape(4, 2))
    key = jax.random.key(0)

    def compute(part, key):
        assert part.weight_BL is None and part.target_BL.shape == (2, 2)
        return jnp.sum(part.target_BL), jax.random.bits(key)

    total, bits = sum_over_parts(compute, batch, key, 2)
    assert total == 28
    assert bits == sum(jax.random.bits(k) for k in jax.random.split(key, 2))


def test_metrics_are_what_they_say(facts):
    step, plain = facts["metrics"]["step"], facts["metrics"]["plain"]
    assert set(step) == set(plain)
    for name, value in plain.items():
        # The parameters' own rounding is large beside one update.
        tolerance = 1e-4 if name == "update_norm" else 1e-5
        np.testing.assert_allclose(step[name], value, rtol=tolerance, err_msg=name)


def test_dropout_is_a_function_of_seed_and_step_alone(facts):
    again, on_4x2 = facts["dropout"]["1x1 0 0"], facts["dropout"]["4x2 0 0"]
    assert again[0] == again[1]
    np.testing.assert_allclose(on_4x2, again[0], rtol=1e-5)
    others = [facts["dropout"][name][0] for name in ("1x1 0 1", "1x1 7 0")]
    assert len({again[0], *others}) == 3
    assert abs(again[0] - facts["losses"]["1x1"][0]) > 1e-3  # it drops at all


def test_tokens_weigh_one_where_the_batch_does_not_say():
    target_BL = np.zeros((2, 3), np.int32)
    np.testing.assert_array_equal(token_weights(Batch(target_BL=target_BL)), np.ones((2, 3)))
    weights = token_weights(Batch(target_BL=target_BL, weight_BL=target_BL + 2))
    assert weights.dtype == jnp.float32 and weights[0, 0] == 2


ADAPTERS = {
    f"layers/{name}/{part}"
    for name in ("query", "attention_out", "down")
    for part in ("down", "up")
}


def test_adapters_alone_change_and_alone_have_optimizer_state(facts):
    found = facts["adapters"]
    assert set(found["changed"]) == ADAPTERS and not ADAPTERS & set(found["given"])
    moments = {path.split("/", 2)[2] for path in found["optimizer"] if "layers" in path}
    assert moments == ADAPTERS
    assert all(path.endswith("count") or "layers" in path for path in found["optimizer"])


def test_adapters_train_on_a_mesh_as_on_one_device_and_are_split_like_their_weights(facts):
    found = facts["adapters"]
    one, mesh = found["losses"]["1x1"], found["losses"]["4x2"]
    assert one == pytest.approx(mesh, rel=1e-5) and one[0] != one[1]
    specs = found["specs"]
    assert specs["layers/query/kernel"] == "P(None, 'data', 'model', None)"
    assert specs["layers/query/down"] == "P(None, 'data', None)"
    assert specs["layers/query/up"] == "P(None, None, 'model', None)"
    assert specs["layers/attention_out/down"] == "P(None, 'model', None, None)"
    for name, parts in (("query/down", 4), ("query/up", 2), ("down/down", 2), ("down/up", 4)):
        whole, shard = found["shards"][f"layers/{name}"]
        assert whole == parts * shard, name


@pytest.fixture(scope="module")
def partly_frozen():
    with training(1, 1, trainable=("final_norm", "layers/v*")) as here:
        state = init_state(here.plan, MODEL, seed=0)
        before = host(state)
        yield before, here.step(state, here.batch(targets(2)))


def test_what_is_not_trainable_stays_bit_for_bit_and_has_no_optimizer_state(partly_frozen):
    before, (after, metrics) = partly_frozen
    old, new = leaves(before.params), leaves(after.params)
    changed = {path for path in new if not same_bits(old[path], new[path])}
    assert changed == {"final_norm", "layers/value"} and metrics["skipped"] == 0
    moments = [path for path in leaves(after.optimizer_state) if not path.endswith("count")]
    assert all(path.endswith(("final_norm", "layers/value")) for path in moments) and moments
    norm = np.sqrt(sum(np.sum(np.square(new[path])) for path in changed))
    assert metrics["param_norm"] == pytest.approx(norm, rel=1e-5)


class Kinked(nn.Module):
    """Its loss is finite, and a gradient is not: the root of a parameter that is zero."""

    def setup(self):
        table = nn.with_logical_partitioning(
            nn.initializers.normal(), (axes.VOCAB, axes.VOCAB_EMBED)
        )
        zero = nn.with_logical_partitioning(nn.initializers.zeros, (axes.NORM,))
        self.table_VD = self.param("table", table, (VOCABULARY, 4))
        self.kink_D = self.param("kink", zero, (4,))

    def __call__(self, tokens_BL):
        return self.unembed(self.hidden(tokens_BL))

    def hidden(self, tokens_BL):
        return self.table_VD[tokens_BL] + jnp.sqrt(self.kink_D)

    def unembed(self, x_BLD):
        return jnp.einsum("bld,vd->blv", x_BLD, self.table_VD)


@pytest.fixture(scope="module")
def kinked():
    with training(1, 1, module=Kinked()) as here:
        yield here, init_state(here.plan, Kinked(), seed=0)


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is_finite(kinked):
    here, state = kinked
    before = host(state)
    after, metrics = here.step(here.placed(before), here.batch(targets(2)))
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["grad_norm"])
    assert metrics["skipped"] == 1
    assert same_bits(TrainState(before.step + 1, before.params, before.optimizer_state), after)
