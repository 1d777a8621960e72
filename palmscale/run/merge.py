"""Merges adapters into their base: a run of whole parameters, which needs neither."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from palmscale.checkpoint.first_step import write_first_step
from palmscale.checkpoint.lease import Lease
from palmscale.data.vocabulary import load_vocabulary
from palmscale.errors import UserError
from palmscale.model.adapted import PARTS, Adapted, is_adapted
from palmscale.model.lora import adapted_shapes, merged
from palmscale.partition.shardings import unbox
from palmscale.run.adapters import find_adapter
from palmscale.run.named_classes import import_modules
from palmscale.run.rebuild import rebuild
from palmscale.run.stored_meta import check_trainable, has_adapters, read_meta
from palmscale.run.workdir import CHECKPOINTS, VOCABULARY, Workdir, checkpoints, choose
from palmscale.storage.place import on_disk, place
from palmscale.storage.tensor import Part, Tensor, Tensors
from palmscale.train.state import abstract_params
from palmscale.trees import named_leaves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merged:
    """What was written.

    Attributes:
        step: of the adapters.
        bytes: of the parameters.
    """

    step: int
    bytes: int


def merge(
    workdir: Workdir,
    to: Workdir,
    *,
    checkpoint: int | str = "latest",
    modules: Iterable[str] = (),
) -> Merged:
    """Writes a run whose weights are those of the base plus the adapters' products.

    It has a checkpoint of step 0 and the vocabulary. It is used like any other, except that
    training goes on from it by a warm start. Parts are read and written one after another, so that
    a model of any size needs little memory.

    Args:
        workdir: the folder of a run that trained adapters.
        to: the new folder, which has no checkpoints.
        checkpoint: `latest`, `best` or a step, of the adapters.
        modules: to import, whose Linen modules the checkpoint may name; see `palmscale.load`.

    Raises:
        UserError: there is no such checkpoint, it holds no adapters, or their base is gone.
        NotSaved: it could not be written.
    """
    directory = place(to) / CHECKPOINTS
    if directory.is_dir():
        raise UserError(f"{to} has checkpoints already; choose a folder that has none.")
    reader = checkpoints(workdir)
    step = choose(reader, checkpoint).step
    meta = read_meta(reader, step)
    if not has_adapters(meta):
        raise UserError(
            f"the run in {workdir} has no adapters to merge; name one that trained some (Lora)."
        )
    modules = tuple(modules)
    import_modules(modules)
    found, base = find_adapter(reader, meta, step, None)
    base_step = found.base_checkpoint(base)
    check_trainable(base.read_meta(base_step), base)
    model = rebuild(meta["identity"].get("model"), modules, nn.Module)
    shapes = unbox(adapted_shapes(found.lora, model, abstract_params(model)))
    params = merged_tensors(shapes, base.params_in_parts(base_step), reader.params_in_parts(step))
    with on_disk(place(workdir) / VOCABULARY) as folder:
        vocabulary = load_vocabulary(meta["vocabulary"], folder)
    with Lease(to) as lease:
        (place(to) / VOCABULARY).mkdir(parents=True, exist_ok=True)
        vocabulary.save(place(to) / VOCABULARY)
        write_first_step(directory, params, meta=_merged_meta(meta, params), lease=lease)
    return Merged(step=step, bytes=sum(tensor.bytes for tensor in params.values()))


def merged_tensors(shapes: Any, base: Tensors, adapters: Tensors) -> Tensors:
    """Returns the merged parameters by path, which are read in parts.

    Args:
        shapes: of the parameters with adapters.
        base: the base's parameters, by path.
        adapters: by `layers/query/down` and `layers/query/up`.
    """
    leaves = named_leaves(shapes, is_leaf=is_adapted)
    return {
        path: _merged_tensor(leaf, base[path], [adapters[f"{path}/{part}"] for part in PARTS])
        if is_adapted(leaf)
        else base[path]
        for path, leaf in leaves.items()
    }


def _merged_tensor(weight: Adapted, kernel: Tensor, adapter: list[Tensor]) -> Tensor:
    down, up = adapter
    dims, stack = range(len(kernel.shape)), range(weight.stack_dims)
    summed = [dim % len(kernel.shape) for dim in weight.summed]
    rank = slice(0, down.shape[-1])

    def read(part: Part) -> np.ndarray:
        stacked = [part[dim] for dim in stack]
        others = [part[dim] for dim in dims if dim not in (*stack, *summed)]
        whole = weight.replace(
            kernel=kernel.read_part(part),
            down=down.read_part((*stacked, *(part[dim] for dim in summed), rank)),
            up=up.read_part((*stacked, rank, *others)),
        )
        return np.asarray(merged(whole))

    return Tensor(kernel.shape, kernel.dtype, read)


def _merged_meta(meta: Mapping[str, Any], params: Tensors) -> dict[str, Any]:
    """Returns what the checkpoint says of its run: the adapters', without them."""
    identity = {name: value for name, value in meta["identity"].items() if name != "trainable"}
    return {
        **meta,
        "identity": identity,
        "run": {**meta["run"], "trainable": []},
        "num_params": sum(int(np.prod(tensor.shape)) for tensor in params.values()),
    }
