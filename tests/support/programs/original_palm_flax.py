"""Loads the original PaLM-flax from a checkout of it; none of its code is in this repository."""

import pathlib
import types

# Two lines stop it from running as a module on the current JAX. JAX itself is left alone.
PATCHES = (
    ("from einops import rearrange", "import numpy\nfrom einops import rearrange"),
    ("x.split(2, axis = -1)", "jnp.split(x, 2, axis = -1)"),
)


def load(path: pathlib.Path) -> types.ModuleType:
    """Returns PaLM-flax as a module, patched in memory.

    Args:
        path: `palm_flax.py`, or a checkout of https://github.com/conceptofmind/PaLM-flax.

    Raises:
        ValueError: one line: there is no such file, or it is not what the patches are for.
        ModuleNotFoundError: it needs einops.
    """
    if (path / "palm_flax" / "palm_flax.py").is_file():
        path = path / "palm_flax" / "palm_flax.py"
    if not path.is_file():
        raise ValueError(
            f"{path} is not there - needed is palm_flax.py or a checkout that has it - "
            "git clone https://github.com/conceptofmind/PaLM-flax"
        )
    text = path.read_text()
    for old, new in PATCHES:
        if text.count(old) != 1:
            raise ValueError(f"{path} does not have {old!r} once - take PaLM-flax at 350ab12")
        text = text.replace(old, new)
    module = types.ModuleType("palm_flax")
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module
