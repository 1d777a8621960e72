"""Which values PaLM's fields may have."""

from typing import Any

from palmscale.errors import UserError
from palmscale.model.attention import XPOS_MOST_POSITIONS

_CHOICES = {
    "norm": ("rms", "layer"),
    "final_norm": ("scaled", "unscaled", "none"),
    "rotary": ("rope", "xpos"),
    "kernel_init": ("normal", "truncated_normal"),
    "output_fan_in": ("separate", "fused"),
    "dtype": ("float32", "bfloat16"),
}


def check_fields(model: Any) -> None:
    """Checks the fields of a PaLM.

    Raises:
        UserError: a field is not valid; names it with its value.
    """
    for field in ("dim", "num_tokens", "depth", "dim_head", "heads", "ff_mult", "query_chunk"):
        if getattr(model, field) < 1:
            raise UserError(f"PaLM.{field}={getattr(model, field)} must be at least 1.")
    if model.dim_head % 2:
        raise UserError(
            f"PaLM.dim_head={model.dim_head} must be even: rotary positions rotate pairs."
        )
    if model.stored_tokens < model.num_tokens:
        raise UserError(
            f"PaLM.padded_tokens={model.padded_tokens} must be at least "
            f"num_tokens={model.num_tokens}."
        )
    if not 0 <= model.dropout < 1:
        raise UserError(f"PaLM.dropout={model.dropout} must be in [0, 1).")
    for field, choices in _CHOICES.items():
        if getattr(model, field) not in choices:
            raise UserError(
                f"PaLM.{field}={getattr(model, field)!r} must be one of {', '.join(choices)}."
            )


def check_positions(model: Any, positions: int) -> None:
    """Checks that a PaLM can tell so many positions apart.

    Raises:
        UserError: there are more than xPos's factors can express in float32.
    """
    if model.rotary == "xpos" and positions > XPOS_MOST_POSITIONS:
        raise UserError(
            f"PaLM.rotary='xpos' sees {XPOS_MOST_POSITIONS:,} positions at most, and these are"
            f" {positions:,}; use shorter sequences or a shorter context."
        )
