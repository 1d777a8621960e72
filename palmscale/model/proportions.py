"""The dimensions of a PaLM of a given size, counted by the model itself."""

import math
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from palmscale.errors import UserError
from palmscale.model.palm import PaLM
from palmscale.model.sizes import count_parameters, padded_tokens

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
# Of the count, relative: below a million one layer more is a large step.
_TOLERANCE, _SMALL_TOLERANCE = 0.1, 0.3


def parse_size(text: str) -> int:
    """Returns a number of parameters: `10m`, `1.5b`, `300k` or `125_000_000`.

    Raises:
        UserError: it is not a number of parameters.
    """
    found = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)([kmb]?)", text.strip().casefold())
    if not found:
        raise UserError(f"{text!r} is not a size; expected a number such as 10m, 1.5b or 300_000.")
    return round(float(found[1].replace("_", "")) * _UNITS[found[2]])


def palm_of_size(parameters: int, *, num_tokens: int, multiple: int) -> PaLM:
    """Returns a PaLM whose count, without norm scales and padding, is within 10% of `parameters`.

    Below a million it is within 30%.

    The width is about 32 times the depth at a million parameters, and 128 times from a billion on,
    as in the paper's models. There is an even number of heads of 32 to 256 dims, as wide together
    as the model.

    Args:
        parameters: how many are wanted.
        num_tokens: ids of the vocabulary, whose table is part of the count.
        multiple: of the rows of the table.

    Raises:
        UserError: no such model has nearly that many; usually the table alone has more.
    """
    shape = min(128.0, 32 * (max(parameters, 1) / 1e6) ** 0.2)  # width / depth
    tolerance = _TOLERANCE if parameters >= 1e6 else _SMALL_TOLERANCE
    best: tuple[float, PaLM] | None = None
    for width in _widths(parameters, shape, num_tokens):
        head = _head_dim(width)
        fields = dict(
            dim=width,
            num_tokens=num_tokens,
            padded_tokens=padded_tokens(num_tokens=num_tokens, multiple=multiple),
            heads=width // head,
            dim_head=head,
            dtype="float32" if parameters < 100e6 else "bfloat16",
            remat="full",
        )
        layer, table = layer_count(PaLM(depth=1, **fields)), num_tokens * width
        depth = max(1, round((parameters - table) / layer))
        error = abs(math.log((table + depth * layer) / parameters))
        score = 3 * error + abs(math.log(width / depth / shape))
        if error <= tolerance and (best is None or score < best[0]):
            best = score, PaLM(depth=depth, **fields)
    if best is None:
        raise UserError(
            f"no PaLM of about {parameters:,} parameters has a vocabulary of {num_tokens:,} tokens,"
            f" whose table has {num_tokens:,} times the width; use more parameters or a smaller"
            " vocabulary."
        )
    return best[1]


def parameter_count(model: PaLM) -> int:
    """Returns the number of parameters, without norm scales and padding."""
    tokens_BL = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    boxed = jax.eval_shape(model.init, {"params": jax.random.key(0)}, tokens_BL)["params"]
    return count_parameters(boxed, model).model


def layer_count(model: PaLM) -> int:
    """Returns the number of parameters of all layers, without norm scales."""
    return count_parameters(jax.eval_shape(model.init_layers, jax.random.key(0)), model).model


def _widths(parameters: int, shape: float, num_tokens: int) -> Iterator[int]:
    """Yields the widths at which the ratio of width to depth may be near `shape`."""
    width = 64
    while (left := parameters - num_tokens * width) > 0:
        depth = max(left / (14 * width**2), 0.5)  # about that many parameters are in a layer
        if 0.3 < width / depth / shape < 3:
            yield width
        width += 64 if width < 512 else 2 * _head_dim(width)
        if width > depth * shape * 10:
            return


def _head_dim(width: int) -> int:
    """Returns the size of a head; the TPU's attention kernel needs multiples of 128."""
    for limit, dim in ((512, 32), (2048, 64), (4096, 128)):
        if width < limit:
            return dim
    return 256
