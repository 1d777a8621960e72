"""What another program's layout cannot express is refused by name."""

from flax import linen as nn

from palmscale.errors import UserError
from palmscale.model.palm import PaLM


def check_is_palm(model: nn.Module, layout: str) -> PaLM:
    """Returns the model, which the layout can express.

    Raises:
        UserError: it is a module of the user's own.
    """
    if type(model) is not PaLM:
        raise refuse(layout, f"the module {type(model).__name__}", "it holds PaLM alone")
    return model


def check_is_cohere(model: nn.Module, layout: str) -> PaLM:
    """Returns the model, which is Cohere's architecture with every layer dense.

    Raises:
        UserError: it is a module of the user's own, or has what that architecture does not.
    """
    palm = check_is_palm(model, layout)
    if palm.rotary != "rope":
        raise refuse(layout, f"PaLM.rotary={palm.rotary!r}", "its positions do not decay")
    if palm.final_norm == "none":
        raise refuse(layout, "PaLM.final_norm='none'", "its models end with a norm")
    return palm


def refuse(layout: str, what: str, why: str) -> UserError:
    """Returns the error for what a layout cannot express."""
    return UserError(f"the layout {layout} cannot express {what}: {why}; choose another layout.")
