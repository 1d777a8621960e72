"""What the backward pass of a layer finds saved, and what it computes anew."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from palmscale.errors import UserError

Remat = str | tuple[str, ...]

# Intermediate values of a layer by the names that `PaLM.remat` takes, in the order in which they
# arise. `norm` is what both branches read: saved, it is not gathered again.
NORM, QUERY, KEY, VALUE, ATTENTION, GATE, UP = NAMES = (
    "norm", "query", "key", "value", "attention", "gate", "up")  # fmt: skip
CHOICES = ("none", "attention", "dots", "full")
ON_HOST = "@host"  # behind a name: saved in the host's memory
_DOTS = (QUERY, KEY, VALUE, GATE, UP)


def checked_remat(remat: Remat) -> Remat:
    """Returns `remat`, a list of names as a tuple.

    Raises:
        UserError: it is neither a choice nor names.
    """
    if isinstance(remat, str):
        if remat in CHOICES:
            return remat
    elif remat and all(name.removesuffix(ON_HOST) in NAMES for name in remat):
        return tuple(remat)
    raise UserError(
        f"PaLM.remat={remat!r} - needed is {', '.join(map(repr, CHOICES))}, or a tuple of what to"
        f" save, of {', '.join(NAMES)}, each in the host's memory where {ON_HOST} follows it -"
        " write for example ('query', 'attention', 'gate@host')"
    )


def save_as(name: str, x: jax.Array) -> jax.Array:
    """Returns `x`, which a policy may save under `name`."""
    return checkpoint_name(x, name)


def rematerialized_layer(
    layer: Callable[..., Any], remat: Remat, *, in_a_loop: bool
) -> Callable[..., Any]:
    """Returns the layer such that its backward pass saves its inputs and what `remat` names.

    `none` and `attention` leave the layer as it is.
    """
    if remat in ("none", "attention"):
        return layer
    names = () if remat == "full" else _DOTS if remat == "dots" else remat
    return jax.checkpoint(layer, policy=saving_policy(names), prevent_cse=not in_a_loop)


def rematerialized_attention(
    attention: Callable[..., Any], remat: Remat, *, in_a_loop: bool
) -> Callable[..., Any]:
    """Returns the attention such that its scores are not saved where `remat` is `attention`."""
    if remat != "attention":
        return attention
    return jax.checkpoint(attention, policy=saving_policy((ATTENTION,)), prevent_cse=not in_a_loop)


def saving_policy(names: Sequence[str]) -> Callable[..., Any]:
    """Returns the policy of `jax.checkpoint` that saves what has these names; `name@host` there."""
    on_host = [name.removesuffix(ON_HOST) for name in names if name.endswith(ON_HOST)]
    on_device = [name for name in names if not name.endswith(ON_HOST)]
    if not on_host:
        return jax.checkpoint_policies.save_only_these_names(*on_device)
    return jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=on_device,
        names_which_can_be_offloaded=on_host,
        offload_src="device",
        offload_dst="pinned_host",
    )
