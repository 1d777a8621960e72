"""A trained model from a run's folder: what its checkpoint stores, on any devices."""

import warnings
from collections.abc import Iterable
from typing import Any

from flax import linen as nn

from palmscale.checkpoint.average import restore_averaged
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.cluster.agree import Peers
from palmscale.cluster.jointly import ALONE
from palmscale.data.vocabulary import load_vocabulary
from palmscale.errors import UserError
from palmscale.infer.layouts import stored_rules
from palmscale.infer.partition import (
    generation_layout,
    generation_rules,
    parameter_bytes,
    placed,
)
from palmscale.model import interface
from palmscale.model.lora import adapted_shapes
from palmscale.partition.layout import DeviceLayout, Layout
from palmscale.partition.mesh import make_mesh
from palmscale.partition.rules import TABLES, MeshAxes
from palmscale.partition.shardings import unbox
from palmscale.run import devices
from palmscale.run.adapters import find_adapter
from palmscale.run.named_classes import import_modules
from palmscale.run.rebuild import rebuild
from palmscale.run.stored_meta import Meta, read_meta
from palmscale.run.stored_weights import StoredWeights, stored_weights
from palmscale.run.trained import Trained
from palmscale.run.workdir import VOCABULARY, Workdir, checkpoints
from palmscale.storage.place import on_disk, place
from palmscale.train.state import abstract_params

# Larger models are spread over all devices.
ONE_DEVICE_BYTES = 2 << 30


def load(
    workdir: Workdir,
    checkpoint: int | str = "latest",
    layout: Layout | None = None,
    *,
    adapter: Workdir | None = None,
    quantize: str | None = None,
    average: int = 1,
    modules: Iterable[str] = (),
    peers: Peers = ALONE,
) -> Trained:
    """Returns the model of a run's folder, as its checkpoint describes it.

    A run that trained adapters (`Lora`) is loaded with the run that it adapts, and neither is
    merged into the other: their parameters are used side by side.

    A checkpoint is data: no code that it names runs, except classes of palmscale's own and Linen
    modules of the user's: of `modules`, and of files that the program has imported.

    Args:
        workdir: the run's folder.
        checkpoint: `latest`, `best` or a step; beside an adapter, `latest` is the step that it was
            trained on.
        layout: mesh and rules, over all devices; the axes of a user's own module that it does not
            name lie as in training. None: one device; or all of them, where the parameters exceed
            2 GiB or there are several processes, laid out for generation.
        adapter: the folder of a run that trained adapters for this one, or a file with one; None:
            none.
        quantize: type of the weights, `int8`, `int4` or `fp8`, into which each parameter is brought
            before the next one is loaded; None: as they are stored. Adapters are not quantized.
        average: of how many checkpoints, up to this one, the parameters are averaged.
        modules: to import, whose Linen modules the checkpoint may name: `my_model`.
        peers: the processes that load it together.

    Raises:
        UserError: there is no such checkpoint, it names a class that it may not, or the adapter was
            trained on other parameters.
    """
    devices.start(None)
    modules = tuple(modules)
    reader = checkpoints(workdir, peers=peers)
    import_modules(modules)
    meta = read_meta(reader, checkpoint if isinstance(checkpoint, int) else None)
    model = rebuild(meta["identity"].get("model"), modules, nn.Module)
    found, base = find_adapter(reader, meta, checkpoint, adapter)
    if found is not None:
        checkpoint = found.base_checkpoint(base, "latest" if base is not reader else checkpoint)
    base_meta = meta if found is None else read_meta(base, checkpoint)
    boxed = _shapes(model, base)
    weights = stored_weights(model, base_meta, quantize)
    _check_averages(average, weights, found is not None)
    placed_on = _layout(layout, model, boxed, base_meta, weights, peers)
    shapes = unbox(boxed) if placed_on is None else placed(boxed, placed_on)
    snapshot = restore_averaged(
        base,
        None if checkpoint == "latest" else checkpoint,
        average,
        abstract_params=weights.on_disk(shapes),
        convert=weights.convert,
    )
    if snapshot is None:
        raise UserError(f"there is no checkpoint in {workdir}; train first, or name another.")
    step, params = snapshot.step, weights.loaded(shapes, snapshot.params)
    if found is not None:
        boxed = adapted_shapes(found.lora, model, boxed)
        abstract = unbox(boxed) if placed_on is None else placed(boxed, placed_on)
        adapter_step, params = found.added(abstract, params)
        step = step if base is reader else adapter_step
    with on_disk(place(workdir) / VOCABULARY) as folder:
        vocabulary = load_vocabulary(meta["vocabulary"], folder)
    return Trained(
        model=model,
        params=params,
        vocabulary=vocabulary,
        step=step,
        meta=snapshot.meta if base is reader else meta,
        layout=placed_on,
    )


def _check_averages(average: int, weights: StoredWeights, is_adapted: bool) -> None:
    if average > 1 and (weights.stored or weights.wanted or is_adapted):
        raise UserError(
            f"average={average}: quantized weights and adapters are not averaged; load them without"
            " average, or export or merge first."
        )


def _layout(
    wanted: Layout | None,
    model: nn.Module,
    boxed: Any,
    meta: Meta,
    weights: StoredWeights,
    peers: Peers,
) -> DeviceLayout | None:
    """Returns the layout of the parameters; see `load`."""
    if wanted is not None:
        mesh = make_mesh(wanted.mesh)
        rules = stored_rules(_trained_rules(meta) | wanted.table())
        return DeviceLayout(mesh=mesh, rules=generation_rules(rules, boxed, mesh.shape))
    if peers.count > 1 or parameter_bytes(weights.held(unbox(boxed))) > ONE_DEVICE_BYTES:
        return generation_layout(
            model, boxed, trained_mesh=meta["mesh"], trained_rules=_trained_rules(meta)
        )
    return None


def _shapes(model: nn.Module, reader: CheckpointReader) -> Any:
    """Returns the boxed shapes of a stored model's parameters, whose fields may be anything."""
    stored_bytes = max((info.bytes for info in reader.steps()), default=0)
    try:
        if interface.depth(model) > stored_bytes:  # layers may be traced one by one
            raise UserError(
                f"the checkpoint describes a {type(model).__name__} of {interface.depth(model):,}"
                f" layers and has {stored_bytes:,} bytes; use an intact copy."
            )
        with warnings.catch_warnings(action="ignore"):  # of JAX, about absurd sizes
            return abstract_params(model)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the checkpoint describes a {type(model).__name__} that cannot be built"
            f" ({type(error).__name__}: {error}); use an intact copy, or the version that it was"
            " saved with."
        ) from error


def _trained_rules(meta: Meta) -> dict[str, MeshAxes]:
    """Returns the rules that a checkpoint's model trained by; 0.1.0 did not keep them.

    Axes that were named later lie as in the `2d` table.
    """
    stored = TABLES["2d"] | meta.get("rules", {})
    return {name: tuple(to) if isinstance(to, list) else to for name, to in stored.items()}
