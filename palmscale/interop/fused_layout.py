"""What the layouts of PaLM-flax, PaLM-pytorch, PaLM-rlhf-pytorch and PaLM-jax share.

Each has an embedding, a final norm, and for each layer a norm, one fused input kernel and two
output kernels. The columns of the fused kernel are

    query [H K] | key [K] | value [K] | up [F] | gate [F]        the gate, which swish gets, is last

so that all sizes follow from the shapes. The norm is LayerNorm without bias, logits are unscaled.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from palmscale.errors import UserError
from palmscale.interop import tensors as lazy
from palmscale.interop.expressible import check_is_palm, refuse
from palmscale.interop.recognize import check_layout, hint
from palmscale.interop.tensors import Tensor, Tensors
from palmscale.model.palm import PaLM

_FIELDS = {"norm": "layer", "norm_eps": 1e-5}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusedLayout:
    """A layout of this kind.

    Attributes:
        name: for messages.
        names: returns, for a number of layers, the layout's names in the order of its files, and
            the part that each is: `embedding`, `tied` (its copy), `final_norm`, `n/norm`,
            `n/fused`, `n/attention_out` and `n/down` of layer n, or a constant: `beta` and `n/beta`
            (zeros), `n/inv_freq` (rotary frequencies), `n/scale` (xPos).
        transposed: whether kernels are stored as [out, in].
        head_order: returns, for K, which column of a head in palmscale each column of a query or
            key head is; None: the same.
    """

    name: str
    names: Callable[[int], dict[str, str]]
    transposed: bool = False
    head_order: Callable[[int], np.ndarray] | None = None


def exported(
    layout: FusedLayout, model: PaLM, params: Tensors, *, norm_offset: float = 0.0
) -> Tensors:
    """Returns the tensors of a layout by name, float32.

    Args:
        layout: the layout.
        model: the module.
        params: its parameters by path.
        norm_offset: what the original adds to a stored norm scale.

    Raises:
        UserError: the layout cannot express the model; names the field.
    """
    _check_expressible(layout, model)
    parts = {
        "embedding": lazy.cut(params["embedding"], 0, 0, model.num_tokens),
        "final_norm": _final_norm_of(model, params, norm_offset),
    }
    parts["tied"] = parts["embedding"]
    for n in range(model.depth):
        one = {
            name.removeprefix("layers/"): lazy.layer(tensor, n)
            for name, tensor in params.items()
            if name.startswith("layers/")
        }
        heads = {
            "query": lazy.merge_dims(_reordered(layout, one["query"], 2), 1),
            "key": _reordered(layout, one["key"], 1),
        }
        columns = {**one, **heads}
        kernels = {
            "fused": lazy.concatenate([columns[name] for name in _columns(model)], 1),
            "attention_out": lazy.merge_dims(one["attention_out"], 0),
            "down": one["down"],
        }
        parts |= {f"{n}/{name}": _turned(layout, kernel) for name, kernel in kernels.items()}
        parts[f"{n}/norm"] = _moved(one["norm"], model.norm_scale_offset - norm_offset)
    parts |= {part: lazy.of_array(values) for part, values in _constants(model).items()}
    names = layout.names(model.depth)
    return {name: parts[part] for name, part in names.items() if part in parts}


def imported(layout: FusedLayout, tensors: Tensors, **fields: Any) -> tuple[PaLM, Tensors]:
    """Returns the module, and its float32 parameters by path.

    Args:
        layout: the layout.
        tensors: by the layout's names.
        **fields: of the module that the layout does not determine.

    Raises:
        UserError: these are not the tensors of the layout, or a constant differs from what
            palmscale computes.
    """
    names = layout.names(max(1, _depth(layout, tensors)))
    optional = {"tied"} if "tied" in names.values() else set()
    optional |= {part for part in names.values() if part.endswith("/scale")}
    names = {name: part for name, part in names.items() if part not in optional or name in tensors}
    parts = {part: tensors[name] for name, part in names.items() if name in tensors}
    model = _module(layout, parts, names, tensors, fields)
    constants = _constants(model)
    shapes = _shapes(layout, model) | {part: value.shape for part, value in constants.items()}
    check_layout(tensors, {name: shapes[part] for name, part in names.items()}, layout.name)
    for name, part in names.items():
        if part in constants:
            _check_constant(name, tensors[name], constants[part])
        if part == "tied":
            _check_tied(name, tensors[name], parts["embedding"])
    return model, _parameters(layout, model, parts)


def interleaved(dim_head: int) -> np.ndarray:
    """Returns the head order of interleaved rotary positions: 2i and 2i + 1 are a pair."""
    return np.arange(dim_head).reshape(2, -1).T.reshape(-1)


def _columns(model: PaLM) -> dict[str, int]:
    """Returns the parts of the fused kernel, in order, and how many columns each has."""
    K, F = model.dim_head, model.ff_mult * model.dim
    return {"query": model.heads * K, "key": K, "value": K, "up": F, "gate": F}


def _depth(layout: FusedLayout, tensors: Tensors) -> int:
    depth = 0
    while _name(layout, f"{depth}/fused", depth + 1) in tensors:
        depth += 1
    return depth


def _name(layout: FusedLayout, part: str, depth: int) -> str:
    return next(name for name, found in layout.names(depth).items() if found == part)


def _module(
    layout: FusedLayout,
    parts: Mapping[str, Tensor],
    names: Mapping[str, str],
    tensors: Tensors,
    fields: Mapping[str, Any],
) -> PaLM:
    """Returns the module that the shapes describe."""
    kernels = ("0/fused", "0/attention_out", "0/down")
    for name, part in names.items():
        if part in ("embedding", *kernels):
            if part not in parts:
                raise UserError(
                    f"these are not the tensors of {layout.name}: {name} is missing."
                    f"{hint(tensors, layout.name)}"
                )
            if len(parts[part].shape) != 2:
                shape = list(parts[part].shape)
                raise UserError(f"{name} of {layout.name} is {shape} and must have two dims.")
    V, D = parts["embedding"].shape
    (_, columns), (HK, _), (F, _) = (_turned(layout, parts[kernel]).shape for kernel in kernels)
    K, rest = divmod(columns - HK - 2 * F, 2)
    if rest or K < 1 or K % 2 or HK % K or F % D:
        raise UserError(
            f"the kernels of {layout.name} do not fit one another: with {columns} fused columns,"
            f" {HK} rows of the attention's output, {F} of the MLP's and width {D}, there is no"
            " even size of a head; expected query, key, value and both halves of the MLP."
        )
    depth = sum(part.endswith("/fused") for part in parts)
    sizes = dict(dim=D, num_tokens=V, depth=depth, dim_head=K, heads=HK // K, ff_mult=F // D)
    rotary = "xpos" if any(part.endswith("/scale") for part in parts) else "rope"
    defaults = {"norm_scale_offset": 0.0, "final_norm": "scaled", "logit_scale": 1.0}
    return PaLM(**sizes, **_FIELDS, **defaults | fields, rotary=rotary)


def _shapes(layout: FusedLayout, model: PaLM) -> dict[str, tuple[int, ...]]:
    D, HK, F = model.dim, model.heads * model.dim_head, model.ff_mult * model.dim
    kernels = {
        "fused": (D, sum(_columns(model).values())), "attention_out": (HK, D), "down": (F, D)
    }  # fmt: skip
    shapes = {"embedding": (model.num_tokens, D), "tied": (model.num_tokens, D), "final_norm": (D,)}
    for n in range(model.depth):
        shapes[f"{n}/norm"] = (D,)
        for name, shape in kernels.items():
            shapes[f"{n}/{name}"] = shape[::-1] if layout.transposed else shape
    return shapes


def _parameters(layout: FusedLayout, model: PaLM, parts: Mapping[str, Tensor]) -> Tensors:
    found: dict[str, list[Tensor]] = {}
    for n in range(model.depth):
        one = {"norm": parts[f"{n}/norm"], "down": _turned(layout, parts[f"{n}/down"])}
        fused, start = _turned(layout, parts[f"{n}/fused"]), 0
        for name, columns in _columns(model).items():
            one[name] = lazy.cut(fused, 1, start, start + columns)
            start += columns
        one["query"] = lazy.split_dim(one["query"], 1, model.dim_head)
        one["query"] = _reordered(layout, one["query"], 2, back=True)
        one["key"] = _reordered(layout, one["key"], 1, back=True)
        out = _turned(layout, parts[f"{n}/attention_out"])
        one["attention_out"] = lazy.split_dim(out, 0, model.dim_head)
        for name, tensor in one.items():
            found.setdefault(f"layers/{name}", []).append(tensor)
    params = {"embedding": parts["embedding"]}
    params |= {path: lazy.stack(layers) for path, layers in found.items()}
    if model.final_norm == "scaled":
        params["final_norm"] = parts["final_norm"]
    return {path: lazy.cast(tensor, np.float32) for path, tensor in params.items()}


def _turned(layout: FusedLayout, kernel: Tensor) -> Tensor:
    return lazy.transpose(kernel) if layout.transposed else kernel


def _reordered(layout: FusedLayout, tensor: Tensor, dim: int, *, back: bool = False) -> Tensor:
    if layout.head_order is None:
        return tensor
    order = layout.head_order(tensor.shape[dim])
    return lazy.take(tensor, np.argsort(order) if back else order, dim)


def _moved(scale: Tensor, by: float) -> Tensor:
    return lazy.map_values(scale, lambda values: values + np.float32(by)) if by else scale


def _final_norm_of(model: PaLM, params: Tensors, norm_offset: float) -> Tensor:
    # Here the logits' factor goes, of which the layouts know nothing.
    factor = np.float32(model.dim**-0.5 if model.logit_scale is None else model.logit_scale)
    if model.final_norm == "unscaled":
        return lazy.of_array(np.full(model.dim, factor - norm_offset, np.float32))
    if factor == 1:
        return _moved(params["final_norm"], model.norm_scale_offset - norm_offset)
    offset = np.float32(model.norm_scale_offset)
    return lazy.map_values(
        params["final_norm"], lambda values: (values + offset) * factor - np.float32(norm_offset)
    )


def _constants(model: PaLM) -> dict[str, np.ndarray]:
    K = model.dim_head
    even = np.arange(0, K, 2, dtype=np.float32)
    # Powers in float64, rounded once: torch's own for heads of up to 64, and of 128.
    powers = np.power(10_000.0, (even / np.float32(K)).astype(np.float64)).astype(np.float32)
    zeros = np.zeros(model.dim, np.float32)
    constants = {"beta": zeros}
    for n in range(model.depth):
        constants |= {f"{n}/beta": zeros, f"{n}/inv_freq": np.float32(1) / powers}
        if model.rotary == "xpos":
            constants[f"{n}/scale"] = (even + np.float32(0.4 * K)) / np.float32(1.4 * K)
    return constants


def _check_constant(name: str, tensor: Tensor, expected: np.ndarray) -> None:
    exact = tensor.dtype == np.float32
    values = tensor.read().astype(np.float32)
    if not np.allclose(values, expected, rtol=1e-5 if exact else 0.02, atol=0):
        raise UserError(
            f"{name} differs from what palmscale computes in its place (it begins with"
            f" {float(values[0]):.6g} and must begin with {float(expected[0]):.6g}): zeros, the"
            " rotary frequencies of base 10000, or xPos with 512 positions a power."
        )


def _check_tied(name: str, tensor: Tensor, embedding: Tensor) -> None:
    for (part, values), (_, table) in zip(tensor.blocks(), embedding.blocks(), strict=True):
        if not np.array_equal(values, table):
            rows = f"{part[0].start} to {part[0].stop - 1}"
            raise UserError(
                f"{name} differs from the embedding in rows {rows}; palmscale's PaLM has one table"
                " for both, as the original."
            )


def _check_expressible(layout: FusedLayout, model: PaLM) -> None:
    check_is_palm(model, layout.name)
    has_xpos = any(part.endswith("/scale") for part in layout.names(1).values())
    wanted = _FIELDS | {"rotary": "xpos" if has_xpos else "rope"}
    for field, value in wanted.items():
        if (found := getattr(model, field)) != value:
            raise refuse(layout.name, f"PaLM.{field}={found!r}", f"it has {value!r}")
    if model.final_norm == "none":
        raise refuse(layout.name, "PaLM.final_norm='none'", "it always has a final norm")
