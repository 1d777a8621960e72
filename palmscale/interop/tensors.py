"""Tensors that are read in parts: what stands between a file of one layout and a file of another.

A `Tensor` is a shape, a dtype and a function that reads a part. The functions below make new ones
of it (a transpose, a layer, a concatenation, ...) without reading anything; a part of the result
reads only the parts that it needs. A checkpoint of any size is thus converted in little memory.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from palmscale.errors import UserError
from palmscale.storage.tensor import Part, Tensor, Tensors


def of_array(array: np.ndarray) -> Tensor:
    """Returns a tensor of values that are in memory."""
    return Tensor(array.shape, array.dtype, lambda part: array[part])


def layer(stacked: Tensor, n: int) -> Tensor:
    """Returns stacked[n]."""

    def read(part: Part) -> np.ndarray:
        return stacked.read_part((slice(n, n + 1), *part))[0]

    return Tensor(stacked.shape[1:], stacked.dtype, read)


def stack(layers: Sequence[Tensor]) -> Tensor:
    """Returns the tensors of one shape and dtype as [N, ...]."""

    def read(part: Part) -> np.ndarray:
        first, *rest = part
        found = [one.read_part(tuple(rest)) for one in layers[first] or layers[:1]]
        return np.stack(found)[: first.stop - first.start]

    _check_alike(layers)
    return Tensor((len(layers), *layers[0].shape), layers[0].dtype, read)


def transpose(tensor: Tensor, *dims: int) -> Tensor:
    """Returns the tensor with its dims in this order; without one, reversed."""
    order = dims or tuple(reversed(range(len(tensor.shape))))

    def read(part: Part) -> np.ndarray:
        of_old = sorted(zip(order, part, strict=True), key=lambda pair: pair[0])
        return tensor.read_part(tuple(s for _, s in of_old)).transpose(order)

    return Tensor(tuple(tensor.shape[d] for d in order), tensor.dtype, read)


def merge_dims(tensor: Tensor, dim: int) -> Tensor:
    """Returns the tensor with dims `dim` and `dim + 1` merged into one: [D, H, K] to [D, H K]."""
    outer, inner = tensor.shape[dim : dim + 2]

    def read(part: Part) -> np.ndarray:
        start, stop = part[dim].start, part[dim].stop
        first, last = start // inner, -(-stop // inner)
        both = (slice(first, last), slice(0, inner))
        values = tensor.read_part((*part[:dim], *both, *part[dim + 1 :]))
        shape = values.shape
        merged = values.reshape(*shape[:dim], shape[dim] * inner, *shape[dim + 2 :])
        wanted = slice(start - first * inner, stop - first * inner)
        return merged[(*[slice(None)] * dim, wanted)]

    shape = (*tensor.shape[:dim], outer * inner, *tensor.shape[dim + 2 :])
    return Tensor(shape, tensor.dtype, read)


def split_dim(tensor: Tensor, dim: int, inner: int) -> Tensor:
    """Returns the tensor with dim `dim` split into [outer, inner]; undoes `merge_dims`."""
    outer = tensor.shape[dim] // inner

    def read(part: Part) -> np.ndarray:
        rows, columns = part[dim : dim + 2]
        merged = slice(rows.start * inner, rows.stop * inner)
        values = tensor.read_part((*part[:dim], merged, *part[dim + 2 :]))
        shape = values.shape
        apart = values.reshape(*shape[:dim], rows.stop - rows.start, inner, *shape[dim + 1 :])
        return apart[(*[slice(None)] * (dim + 1), columns)]

    shape = (*tensor.shape[:dim], outer, inner, *tensor.shape[dim + 1 :])
    return Tensor(shape, tensor.dtype, read)


def cut(tensor: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """Returns tensor[..., start:stop, ...]."""

    def read(part: Part) -> np.ndarray:
        moved = slice(part[dim].start + start, part[dim].stop + start)
        return tensor.read_part((*part[:dim], moved, *part[dim + 1 :]))

    shape = (*tensor.shape[:dim], stop - start, *tensor.shape[dim + 1 :])
    return Tensor(shape, tensor.dtype, read)


def concatenate(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """Returns the tensors of one dtype side by side along `dim`."""
    sizes = [tensor.shape[dim] for tensor in tensors]
    starts = np.cumsum([0, *sizes]).tolist()

    def read(part: Part) -> np.ndarray:
        found = []
        for tensor, start, size in zip(tensors, starts, sizes):
            own = slice(max(part[dim].start - start, 0), min(part[dim].stop - start, size))
            if own.start < own.stop:
                found.append(tensor.read_part((*part[:dim], own, *part[dim + 1 :])))
        if not found:
            return tensors[0].read_part((*part[:dim], slice(0, 0), *part[dim + 1 :]))
        return np.concatenate(found, axis=dim)

    first = tensors[0]
    shape = (*first.shape[:dim], sum(sizes), *first.shape[dim + 1 :])
    return Tensor(shape, first.dtype, read)


def take(tensor: Tensor, index: np.ndarray, dim: int) -> Tensor:
    """Returns the tensor whose entry i along `dim` is entry index[i]; all of them are read."""

    def read(part: Part) -> np.ndarray:
        whole = tensor.read_part((*part[:dim], slice(0, tensor.shape[dim]), *part[dim + 1 :]))
        return np.take(whole, index[part[dim]], axis=dim)

    shape = (*tensor.shape[:dim], len(index), *tensor.shape[dim + 1 :])
    return Tensor(shape, tensor.dtype, read)


def map_values(
    tensor: Tensor, function: Callable[[np.ndarray], np.ndarray], dtype: np.dtype | None = None
) -> Tensor:
    """Returns the tensor with an elementwise function applied, cast to `dtype` or its own."""
    kind = np.dtype(dtype or tensor.dtype)
    return Tensor(
        tensor.shape, kind, lambda part: function(tensor.read_part(part)).astype(kind, copy=False)
    )


def cast(tensor: Tensor, dtype: np.typing.DTypeLike) -> Tensor:
    """Returns the tensor as `dtype`."""
    return map_values(tensor, lambda values: values, np.dtype(dtype))


def watched(tensors: Tensors, watch: Callable[[int, int], None]) -> Tensors:
    """Returns the tensors; `watch` is told the bytes read so far, and those of all, at each part.

    Parts that are read again do not count beyond the whole.
    """
    total, done = sum(tensor.bytes for tensor in tensors.values()), 0

    def watching(tensor: Tensor) -> Tensor:
        def read(part: Part) -> np.ndarray:
            nonlocal done
            values = tensor.read_part(part)
            done = min(done + values.nbytes, total)
            watch(done, total)
            return values

        return Tensor(tensor.shape, tensor.dtype, read)

    return {name: watching(tensor) for name, tensor in tensors.items()}


def check_names(tensors: Tensors, wanted: Mapping[str, tuple[int, ...]], layout: str) -> None:
    """Checks that these are the tensors of a layout.

    Args:
        tensors: that were found.
        wanted: the shape of each tensor of the layout, by name.
        layout: its name, for the message.

    Raises:
        UserError: names are missing or unknown, or shapes differ; they are listed with shapes.
    """
    found = {name: tensor.shape for name, tensor in tensors.items()}
    problems = []
    for what, names, shapes in (
        ("missing", wanted.keys() - found.keys(), wanted),
        ("unknown", found.keys() - wanted.keys(), found),
    ):
        if names:
            problems.append(f"{what}: {_listed({n: shapes[n] for n in sorted(names)})}")
    for name in sorted(wanted.keys() & tensors.keys()):
        if tuple(tensors[name].shape) != tuple(wanted[name]):
            problems.append(
                f"{name} is {list(tensors[name].shape)} and must be {list(wanted[name])}"
            )
    if problems:
        raise UserError(f"these are not the tensors of {layout}: {'; '.join(problems[:8])}.")


def _listed(shapes: Mapping[str, Sequence[int]], most: int = 4) -> str:
    told = [f"{name} {list(shape)}" for name, shape in list(shapes.items())[:most]]
    more = len(shapes) - len(told)
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")


def _check_alike(tensors: Sequence[Tensor]) -> None:
    kinds = {(tensor.shape, tensor.dtype) for tensor in tensors}
    if len(kinds) > 1:
        raise UserError(
            f"the layers differ in shape or dtype: {', '.join(sorted(map(str, kinds)))}; all layers"
            " must be alike."
        )
