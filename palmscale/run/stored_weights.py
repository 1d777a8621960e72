"""The weights of a checkpoint: as they are stored, and in the form in which they are loaded."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from palmscale.checkpoint.reader import Convert
from palmscale.errors import UserError
from palmscale.infer.quantized import abstract_tree, check_quantizes, quantize_leaf
from palmscale.partition.shardings import path_name
from palmscale.run.stored_meta import Meta
from palmscale.trees import named_leaves, nested


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """What a checkpoint has of a model's parameters, and what becomes of them.

    Quantized weights are stored as two arrays, `layers/query/qvalue` and `layers/query/scale`, so
    that no checkpoint depends on a class of another library.

    Attributes:
        model: the module.
        stored: the type of the stored weights, such as `int8`; None: they are the parameters.
        wanted: the type into which they are brought; None: they stay as they are.
    """

    model: nn.Module
    stored: str | None
    wanted: str | None

    def held(self, shapes: Any) -> Any:
        """Returns the shapes of the loaded parameters, from those of the module's."""
        kind = self.stored or self.wanted
        return shapes if kind is None else abstract_tree(self.model, shapes, kind)

    def on_disk(self, shapes: Any) -> Any:
        """Returns the shapes of the stored arrays, from those of the module's parameters."""
        return shapes if self.stored is None else as_stored(self.held(shapes))

    @property
    def convert(self) -> Convert | None:
        """What is to be done with each array as soon as it is loaded."""
        if self.stored is not None or self.wanted is None:
            return None
        return functools.partial(quantize_leaf, self.model, to=self.wanted)

    def loaded(self, shapes: Any, arrays: Any) -> Any:
        """Returns the parameters, from the shapes of the module's and the arrays of a restore."""
        if self.stored is None:
            return arrays
        by_name = named_leaves(arrays)
        return jax.tree_util.tree_map_with_path(
            lambda path, _: by_name[path_name(path)], self.held(shapes)
        )


def stored_weights(model: nn.Module, meta: Meta, wanted: str | None) -> StoredWeights:
    """Returns how the weights of a checkpoint are stored and loaded.

    Raises:
        UserError: the weights are quantized to another type than `wanted`, the model's cannot be
            quantized, or the package for it is missing.
    """
    stored = meta.get("quantized")
    for kind in filter(None, (stored, wanted)):
        check_quantizes(model, kind)
    if stored and wanted not in (None, stored):
        raise UserError(
            f"the checkpoint's weights are {stored} and cannot be quantized to {wanted}; load the"
            " run that they were made from."
        )
    return StoredWeights(model=model, stored=stored, wanted=wanted)


def as_stored(params: Any) -> Mapping[str, Any]:
    """Returns parameters, some of them quantized, as the tree of arrays that a checkpoint has."""
    return nested(named_leaves(params))
