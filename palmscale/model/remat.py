"""Rematerialization: what is saved for a layer's backward pass, and what it recomputes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from palmscale.errors import UserError

Remat = str | tuple[str, ...]

# The names of a layer's intermediate values for `PaLM.remat`, in the order of computation. `norm`
# is the input of both branches; saving it avoids gathering it again.
NORM, QUERY, KEY, VALUE, ATTENTION, GATE, UP = NAMES = (
    "norm", "query", "key", "value", "attention", "gate", "up")  # fmt: skip
CHOICES = ("none", "attention", "dots", "full")
ON_HOST = "@host"  # suffix of a name: offload to the host's memory
_DOTS = (QUERY, KEY, VALUE, GATE, UP)


def checked_remat(remat: Remat) -> Remat:
    """Returns `remat` after validation, with a list of names converted to a tuple.

    Raises:
        UserError: it is neither a valid choice nor a list of valid names.
    """
    if isinstance(remat, str):
        if remat in CHOICES:
            return remat
    elif remat and all(name.removesuffix(ON_HOST) in NAMES for name in remat):
        return tuple(remat)
    choices = ", ".join(map(repr, CHOICES))
    raise UserError(
        f"PaLM.remat={remat!r} is not valid; expected {choices}, or a tuple of names to save, from"
        f" {', '.join(NAMES)}, each with the suffix {ON_HOST} to offload it to the host's memory,"
        " for example ('query', 'attention', 'gate@host')."
    )


def save_as(name: str, x: jax.Array) -> jax.Array:
    """Returns `x`, named so that a policy can save it."""
    return checkpoint_name(x, name)


def rematerialized_layer(
    layer: Callable[..., Any], remat: Remat, *, in_a_loop: bool
) -> Callable[..., Any]:
    """Returns the layer wrapped so that only its inputs and what `remat` names are saved.

    `none` and `attention` return the layer unchanged.
    """
    if remat in ("none", "attention"):
        return layer
    names = () if remat == "full" else _DOTS if remat == "dots" else remat
    return jax.checkpoint(layer, policy=saving_policy(names), prevent_cse=not in_a_loop)


def rematerialized_attention(
    attention: Callable[..., Any], remat: Remat, *, in_a_loop: bool
) -> Callable[..., Any]:
    """Returns the attention wrapped so that its scores are not saved, if `remat` is `attention`."""
    if remat != "attention":
        return attention
    return jax.checkpoint(attention, policy=saving_policy((ATTENTION,)), prevent_cse=not in_a_loop)


def saving_policy(names: Sequence[str]) -> Callable[..., Any]:
    """Returns the `jax.checkpoint` policy that saves these names and offloads `name@host`."""
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
