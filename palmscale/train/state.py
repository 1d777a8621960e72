"""The training state, created sharded: no device or host ever holds a full copy."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from palmscale.errors import UserError
from palmscale.model.lora import Lora, adapted_shapes, adapters_of, initial_adapters, joined
from palmscale.model.tracing import abstract_variables
from palmscale.optim.interface import AnyOptimizer, transformation
from palmscale.optim.trainable import Trainable
from palmscale.optim.trainable import trainable as choose
from palmscale.partition.rules import MeshAxes
from palmscale.partition.shardings import logical_axes, make_shardings, path_name, unbox
from palmscale.train.optimizer_axes import boxed_like
from palmscale.trees import filled, named_leaves

# Of the key of adapters: parameters of a seed are the same with and without them.
_ADAPTERS = 1


@struct.dataclass
class TrainState:
    """The state of training: completed steps, parameters and optimizer state."""

    step: jax.Array
    params: Any
    optimizer_state: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatePlan:
    """The shapes, axes and shardings of the state, before it is created.

    Attributes:
        boxed: TrainState of shapes, each boxed with its logical axes.
        abstract: the same without boxes, each shape with its sharding, as a restore needs it.
        transformation: the optimizer, built for the layer axes of the parameters that train.
        trainable: which parameters these are.
    """

    boxed: TrainState
    abstract: TrainState
    transformation: optax.GradientTransformationExtraArgs
    trainable: Trainable = Trainable()

    @property
    def shardings(self) -> TrainState:
        """The sharding of each leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract)


def plan_state(
    *,
    model: nn.Module,
    optimizer: AnyOptimizer,
    mesh: Mesh,
    rules: Mapping[str, MeshAxes],
    trainable: Sequence[str] | Lora = (),
) -> StatePlan:
    """Returns the state plan of `model` and `optimizer`, by tracing only.

    Args:
        model: a module that can be trained.
        optimizer: of the parameters that train.
        mesh: the devices.
        rules: logical axis to mesh axis.
        trainable: patterns of the paths of the parameters that train, all without one; or adapters,
            which the parameters then have, and which train alone.

    Raises:
        UserError: a parameter has no logical axes, or does not divide over the mesh.
    """
    boxed, rule, chosen = abstract_state(model, optimizer, trainable=trainable)
    shardings = make_shardings(boxed, mesh, rules)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        unbox(boxed),
        shardings,
    )
    return StatePlan(boxed=boxed, abstract=abstract, transformation=rule, trainable=chosen)


def abstract_state(
    model: nn.Module,
    optimizer: AnyOptimizer,
    *,
    trainable: Sequence[str] | Lora = (),
) -> tuple[TrainState, optax.GradientTransformationExtraArgs, Trainable]:
    """Returns the boxed shapes of the state, the optimizer, and which parameters train.

    The arguments are those of `plan_state`.

    Raises:
        UserError: a parameter has no logical axes, or the optimizer cannot update the parameters.
    """
    boxed_params = abstract_params(model)
    if isinstance(trainable, Lora):
        boxed_params = adapted_shapes(trainable, model, boxed_params)
        chosen = Trainable(frozenset(named_leaves(adapters_of(unbox(boxed_params)))))
    else:
        chosen = choose(trainable, named_leaves(unbox(boxed_params)))
    trained = chosen.part(boxed_params)
    rule = transformation(optimizer, logical_axes(trained))
    optimizer_state = abstract_optimizer_state(rule, unbox(trained))
    boxed = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=boxed_params,
        optimizer_state=boxed_like(trained, optimizer_state),
    )
    return boxed, rule, chosen


def abstract_optimizer_state(rule: optax.GradientTransformationExtraArgs, params: Any) -> Any:
    """Returns the shapes of an optimizer's state, for parameters of the given shapes.

    Raises:
        UserError: the optimizer fails for them, or its update changes the state's shapes or dtypes,
            so that the compiled step could not run twice.
    """

    def update(params: Any, state: Any) -> Any:
        return rule.update(params, state, params, value=jnp.zeros(()))

    try:
        state = jax.eval_shape(rule.init, params)
        updates, new_state = jax.eval_shape(update, params, state)
    except Exception as error:  # whatever a user's optimizer raises
        raise UserError(
            f"the optimizer fails for the model's parameters: {type(error).__name__}: {error}"
        ) from error
    for what, old, new in (("updates", params, updates), ("state", state, new_state)):
        if jax.tree.structure(old) != jax.tree.structure(new):
            raise UserError(f"the optimizer's update returns {what} of another structure.")
    leaves = jax.tree_util.tree_leaves_with_path(state)
    for (path, old), new in zip(leaves, jax.tree.leaves(new_state), strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise UserError(
                f"the optimizer's update changes its state {path_name(path)} from"
                f" {old.dtype}{list(old.shape)} to {new.dtype}{list(new.shape)}; it must return"
                " the shapes and dtypes that init returns."
            )
    return state


def abstract_params(model: nn.Module) -> Any:
    """Returns the shapes of the model's parameters, boxed with their logical axes.

    Raises:
        UserError: a parameter has no logical axes (Flax would silently replicate it), not one for
            each dim, or no float dtype.
    """
    boxed = abstract_variables(model)["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        boxed, is_leaf=lambda node: isinstance(node, nn.Partitioned)
    ):
        if problem := parameter_problem(leaf):
            name = type(model).__name__
            raise UserError(f"parameter {path_name(path)} of {name} {problem}.")
    return boxed


def parameter_problem(leaf: Any) -> str | None:
    """Returns why a parameter cannot be trained, after its name, or None.

    `leaf` is a shape, in a box with logical axes if it has them.
    """
    if not isinstance(leaf, nn.Partitioned):
        return "has no logical axes; wrap its initializer in nn.with_logical_partitioning"
    array, names = leaf.value, tuple(leaf.names)
    if len(names) != len(array.shape):
        return (
            f"has the shape {array.shape} and the logical axes {names}; name each of its"
            f" {len(array.shape)} dims in nn.with_logical_partitioning"
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return f"is {array.dtype}; a parameter must be a float to have a gradient"
    return None


def init_state(
    plan: StatePlan, model: nn.Module, *, seed: int, given: Mapping[str, jax.Array] = {}
) -> TrainState:
    """Returns the state at step 0, a pure function of the seed that is the same on any mesh.

    Parameters that are `given`, by path and in their shardings, replace the initialized ones.
    """

    abstract = plan.abstract.params

    def init_params() -> dict[str, jax.Array]:
        key, tokens_BL = jax.random.key(seed), jnp.zeros((1, 1), jnp.int32)
        params = named_leaves(unbox(model.init({"params": key}, tokens_BL)["params"]))
        adapters = initial_adapters(abstract, jax.random.fold_in(key, _ADAPTERS))
        return named_leaves(joined(abstract, params, adapters))

    def init() -> TrainState:
        params = filled(abstract, init_params())
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer_state(params))

    def optimizer_state(params: Any) -> Any:
        return plan.transformation.init(plan.trainable.part(params))

    if not given:
        return jax.jit(init, out_shardings=plan.shardings)()
    shardings = named_leaves(plan.shardings.params)

    def rest() -> dict[str, jax.Array]:
        return {path: leaf for path, leaf in init_params().items() if path not in given}

    missing = {path: sharding for path, sharding in shardings.items() if path not in given}
    made = jax.jit(rest, out_shardings=missing)() if missing else {}
    params = filled(abstract, made | {**given})
    step = jax.jit(lambda: jnp.zeros((), jnp.int32), out_shardings=plan.shardings.step)()
    state = jax.jit(optimizer_state, out_shardings=plan.shardings.optimizer_state)(params)
    return TrainState(step, params, state)
