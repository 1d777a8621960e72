"""The state of any optimizer lies like the parameters that it is of."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn

from palmscale.partition.shardings import path_name, unbox
from palmscale.train.optimizer_axes import boxed_like
from palmscale.train.state import abstract_optimizer_state

AXES = {
    "layers": {"query": ("layers", "embed", "heads", "kv"), "norm": ("layers", "norm")},
    "table": ("vocab", "vocab_embed"),
}
SHAPES = {"layers": {"query": (2, 256, 4, 128), "norm": (2, 256)}, "table": (512, 256)}
PARAMS = jax.tree.map(
    lambda names, shape: nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names),
    AXES, SHAPES, is_leaf=lambda node: isinstance(node, tuple),
)  # fmt: skip


def axes_of(rule):
    """The names of each array of the state that is no scalar, by its path."""
    rule = optax.with_extra_args_support(rule)
    boxed = boxed_like(PARAMS, abstract_optimizer_state(rule, unbox(PARAMS)))
    is_box = lambda node: isinstance(node, nn.Partitioned)  # noqa: E731
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box)
    return {path_name(path): box.names for path, box in leaves if box.names}


def moments(prefix):
    return {
        f"{prefix}/{path_name(path)}": names
        for path, names in jax.tree_util.tree_leaves_with_path(
            AXES, is_leaf=lambda node: isinstance(node, tuple)
        )
    }


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (optax.lion(1e-3), moments("0/mu")),
        (
            optax.chain(optax.clip(1.0), optax.adam(1e-3)),
            moments("1/0/mu") | moments("1/0/nu"),
        ),
        (optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9), moments("inner_state/0/trace")),
        (
            optax.MultiSteps(optax.lion(1e-3), 2).gradient_transformation(),
            moments("inner_opt_state/0/mu") | moments("acc_grads"),
        ),
        (optax.sgd(0.1), {}),
    ],
    ids=["lion", "chain", "inject_hyperparams", "MultiSteps", "stateless"],
)
def test_a_moment_has_the_axes_of_its_parameter_however_deep_it_is(rule, expected):
    assert axes_of(rule) == expected


def test_a_masked_or_partitioned_optimizer_keeps_state_of_a_part_alone():
    labels = lambda params: {"layers": jax.tree.map(lambda _: "a", params["layers"]), "table": "b"}  # noqa: E731
    found = axes_of(optax.partition({"a": optax.lion(1e-3), "b": optax.sgd(0.1)}, labels))
    assert set(found.values()) == set(AXES["layers"].values())


def test_factored_statistics_have_the_axes_of_the_dims_that_they_keep():
    found = axes_of(optax.adafactor(1e-3))
    assert found["0/v_row/table"] == ("vocab_embed",) and found["0/v_col/table"] == ("vocab",)
    assert found["0/v/layers/norm"] == ("layers", "norm")
    assert found["0/v/table"] == (None,)  # a placeholder of one element


def test_a_history_of_updates_has_the_axes_of_its_parameters_behind_the_steps():
    rule = optax.scale_by_lbfgs(memory_size=3)
    boxed = boxed_like(PARAMS, jax.eval_shape(rule.init, unbox(PARAMS)))
    table = boxed.diff_params_memory["table"]
    assert table.value.shape == (3, 512, 256) and table.names == (None, "vocab", "vocab_embed")


def test_what_has_another_structure_is_found_by_its_shape_or_replicated():
    state = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(512, 256), (7, 5), ()]]
    assert [box.names for box in boxed_like(PARAMS, state)] == [
        ("vocab", "vocab_embed"), (None, None), ()
    ]  # fmt: skip
