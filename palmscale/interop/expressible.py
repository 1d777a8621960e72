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
        raise refuse(layout, f"the module {type(model).__name__}", "it is that of PaLM")
    return model


def refuse(layout: str, what: str, why: str) -> UserError:
    """Returns the error for what a layout cannot express."""
    return UserError(f"the layout {layout} cannot express {what}: {why}; choose another layout.")
