"""A tensor that is read in parts: of a checkpoint, or of a file of another program."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

Part = tuple[slice, ...]  # a slice with start and stop for each dim, without steps
_BLOCK_BYTES = 1 << 26
_CACHE_LINE_BYTES = 64


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is read in parts.

    Attributes:
        shape: of the whole.
        dtype: of NumPy; `ml_dtypes.bfloat16` is one.
        read_part: returns the part that a `Part` selects, of that shape and this dtype.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read_part: Callable[[Part], np.ndarray]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Of the whole."""
        return self.size * self.dtype.itemsize

    def read(self, *slices: slice) -> np.ndarray:
        """Returns the part that the slices select; dims without one are read whole."""
        rest = self.shape[len(slices) :]
        bounds = [s.indices(n) for s, n in zip(slices, self.shape)]
        part = [slice(start, max(start, stop)) for start, stop, _ in bounds]
        return self.read_part((*part, *(slice(0, n) for n in rest)))

    def blocks(self, block_bytes: int = _BLOCK_BYTES) -> Iterator[tuple[Part, np.ndarray]]:
        """Yields (part, its values) of about `block_bytes` in the order in which files hold them.

        A part has a range of one dim, single indices of the dims before it, and all of those after.
        """
        return ((part, self.read_part(part)) for part in _parts(self.shape, block_bytes, self))


Tensors = Mapping[str, Tensor]


def contiguous(values: np.ndarray) -> np.ndarray:
    """Returns the values in the order in which files hold them; a copy unless they have it."""
    if values.flags.c_contiguous or values.strides[-1] == values.itemsize:
        return np.asarray(values, order="C")
    # NumPy would copy a transposed array row by row, and load a cache line for each element.
    strip = max(1, _CACHE_LINE_BYTES // values.itemsize)
    ordered = np.empty(values.shape, values.dtype)
    for start in range(0, values.shape[-1], strip):
        ordered[..., start : start + strip] = values[..., start : start + strip]
    return ordered


def _parts(shape: tuple[int, ...], block_bytes: int, tensor: Tensor) -> Iterator[Part]:
    row_bytes = math.prod(shape[1:]) * tensor.dtype.itemsize
    if not shape:
        yield ()
    elif row_bytes > block_bytes and len(shape) > 1:
        for n in range(shape[0]):
            for rest in _parts(shape[1:], block_bytes, tensor):
                yield (slice(n, n + 1), *rest)
    else:
        rows = max(1, block_bytes // max(row_bytes, 1))
        for start in range(0, shape[0], rows):
            yield (slice(start, min(start + rows, shape[0])), *(slice(0, n) for n in shape[1:]))
