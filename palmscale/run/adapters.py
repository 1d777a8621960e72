"""Adapters that are stored apart from their base: in a run's checkpoints, and read from there.

A checkpoint of a run whose `trainable` is `Lora` holds the adapters and their optimizer state. What
it says of the run has rank, alpha and targets in the identity, and in `warm_start` the base's
workdir, step and digest.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypedDict, cast

import jax

from palmscale.checkpoint.average import restore_averaged
from palmscale.checkpoint.reader import CheckpointReader, Snapshot
from palmscale.checkpoint.warm_start import WarmStart
from palmscale.cluster.agree import Peers
from palmscale.cluster.jointly import ALONE, led
from palmscale.errors import UserError
from palmscale.interop import adapter_file
from palmscale.interop.tensors import check_names
from palmscale.model.interface import is_formed
from palmscale.model.lora import Lora, adapters_of, base_of, joined
from palmscale.run.rebuild import rebuild
from palmscale.run.run import Run
from palmscale.run.stored_meta import Meta, check_whole, has_adapters, read_meta
from palmscale.run.workdir import Workdir, checkpoints, choose
from palmscale.storage.place import place
from palmscale.storage.tensor import Tensor
from palmscale.storage.typed_json import Count, checked
from palmscale.trees import named_leaves

# Returns the step and the arrays by path, in the shardings of an abstract tree of adapters alone.
Read = Callable[[Any], tuple[int, Mapping[str, jax.Array]]]


class Base(TypedDict):
    """The parameters that an adapter was trained on.

    Attributes:
        workdir: of their run, when the adapter was trained.
        step: of their checkpoint.
        digest: of their fingerprints, the same in every copy.
    """

    workdir: str
    step: Count
    digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """A stored adapter.

    Attributes:
        source: where it is stored.
        lora: its description.
        base: the parameters that it was trained on.
        read: reads it.
    """

    source: str
    lora: Lora
    base: Base
    read: Read

    @classmethod
    def of_run(cls, reader: CheckpointReader, meta: Meta, checkpoint: int | str = "latest") -> Self:
        """Returns the adapter in a checkpoint of a run of adapters, which has `meta`."""

        def read(abstract: Any) -> tuple[int, dict[str, jax.Array]]:
            which = None if checkpoint == "latest" else checkpoint
            snapshot = reader.restore(which, abstract_params=abstract)
            return snapshot.step, named_leaves(snapshot.params)

        return cls(
            source=str(reader.directory.parent),
            lora=lora_of(meta),
            base=base_in(meta.get("warm_start"), reader),
            read=read,
        )

    def base_checkpoint(self, reader: CheckpointReader, checkpoint: int | str = "latest") -> int:
        """Returns the step among a base's checkpoints that the adapter was trained on.

        Args:
            reader: of the base's checkpoints.
            checkpoint: the step that it must be; `latest`: any.

        Raises:
            UserError: it is not there.
        """
        return matching_step(reader, self.base, self.source, checkpoint)

    def added(self, abstract: Any, base: Any) -> tuple[int, Any]:
        """Returns the step of the adapter, and the base's parameters with it.

        Args:
            abstract: shapes with shardings of a tree with adapters.
            base: the module's parameters, which may be quantized.
        """
        step, found = self.read(adapters_of(abstract))
        return step, joined(abstract, named_leaves(base, is_leaf=is_formed), found)


def find_adapter(
    reader: CheckpointReader, meta: Meta, checkpoint: int | str, adapter: Workdir | None
) -> tuple[Adapter | None, CheckpointReader]:
    """Returns the adapter to load a run with, and the checkpoints of whole parameters.

    Args:
        reader: of the run.
        meta: of its checkpoint.
        checkpoint: of the run.
        adapter: to load it with; None: that of its own checkpoints, if they hold one.

    Raises:
        UserError: there is no such adapter, or its base is not where it was.
    """
    if adapter is not None:
        check_whole(meta, reader)
        return open_adapter(adapter, reader.peers), reader
    if not has_adapters(meta):
        return None, reader
    found = Adapter.of_run(reader, meta, checkpoint)
    try:
        return found, checkpoints(found.base["workdir"], peers=reader.peers)
    except UserError:
        raise UserError(
            f"the run in {found.source} trained adapters for the run in {found.base['workdir']},"
            " which is not there; name the folder where that run is now, with this one as its"
            " adapter."
        ) from None


def restored(
    reader: CheckpointReader,
    checkpoint: int | str | None,
    abstract_params: Any,
    adapter: Workdir | None = None,
    *,
    average: int = 1,
) -> Snapshot | None:
    """Returns a checkpoint with whole parameters, those of its base included.

    Args:
        reader: of the run.
        checkpoint: as `CheckpointReader.restore` takes it.
        abstract_params: shapes with shardings of the parameters, with adapters if there are any.
        adapter: see `find_adapter`.
        average: of how many checkpoints, up to this one, the parameters are averaged.

    Raises:
        UserError: there is no such checkpoint, an adapter is to be averaged, or there is no base
            with the parameters of the adapter.
    """
    which = "latest" if checkpoint is None else checkpoint
    found, base = find_adapter(reader, read_meta(reader), which, adapter)
    if found is None:
        return restore_averaged(reader, checkpoint, average, abstract_params=abstract_params)
    if average > 1:
        raise UserError(
            f"average={average}: adapters are not averaged; leave it out, or merge first."
        )
    step = found.base_checkpoint(base, which if base is reader else "latest")
    snapshot = base.restore(step, abstract_params=base_of(abstract_params))
    step, params = found.added(abstract_params, snapshot.params)
    return dataclasses.replace(snapshot, step=step, params=params)


def with_adapter(run: Run, workdir: Workdir, adapter: Workdir | None) -> Run:
    """Returns a run as one of its workdir's parameters with an adapter; itself without one.

    Raises:
        UserError: there is no such adapter.
    """
    if adapter is None:
        return run
    lora = open_adapter(adapter).lora
    base = WarmStart(workdir=str(workdir))
    return dataclasses.replace(run, trainable=lora, warm_start=base)


def open_adapter(source: Workdir, peers: Peers = ALONE) -> Adapter:
    """Returns the adapter of a run's folder, as its newest checkpoint has it, or of a file.

    Raises:
        UserError: there is none.
    """
    path = place(source)
    if isinstance(path, Path) and path.is_file():
        return _of_file(path)
    reader = checkpoints(source, peers=peers)
    meta = read_meta(reader)
    if not has_adapters(meta):
        raise UserError(
            f"adapter={str(source)!r} is a run of whole parameters; name the folder of a run that"
            " trained adapters (Lora)."
        )
    return Adapter.of_run(reader, meta)


def _of_file(path: Path) -> Adapter:
    facts, tensors = adapter_file.read(path)

    def read(abstract: Any) -> tuple[int, dict[str, jax.Array]]:
        wanted = named_leaves(abstract)
        check_names(tensors, {name: leaf.shape for name, leaf in wanted.items()}, "adapter")
        return facts["step"], {name: _placed(tensors[name], one) for name, one in wanted.items()}

    checked(facts["step"], Count, f"step in {path}")
    return Adapter(
        source=str(path),
        lora=cast(Lora, rebuild(facts["lora"], (), Lora)),
        base=checked(facts["base"], Base, f"base in {path}"),
        read=read,
    )


def _placed(tensor: Tensor, abstract: jax.ShapeDtypeStruct) -> jax.Array:
    if abstract.sharding is None:
        return jax.device_put(tensor.read())
    return jax.make_array_from_callback(
        abstract.shape, abstract.sharding, lambda index: tensor.read(*index)
    )


def lora_of(meta: Meta) -> Lora:
    """Returns the description of a checkpoint's adapters."""
    return cast(Lora, rebuild(meta["identity"]["trainable"], (), Lora))


def matching_step(
    reader: CheckpointReader, base: Base, source: object, checkpoint: int | str = "latest"
) -> int:
    """Returns the step whose parameters an adapter was trained on; see `base_checkpoint`."""

    def find() -> int | None:
        # First the step of that number, which is it unless the folder is another run's.
        steps = sorted(reader.verified_steps(), key=lambda step: (step != base["step"], -step))
        if checkpoint != "latest":
            steps = [choose(reader, checkpoint).step]
        alike = (step for step in steps if reader.params_digest(step) == base["digest"])
        return next(alike, None)

    step = led(reader.peers, "base of an adapter", find, reader.timeout_seconds)
    if step is not None:
        return step
    folder = reader.directory.parent
    here = (
        f"no checkpoint in {folder} has these parameters"
        if checkpoint == "latest"
        else f"checkpoint {checkpoint} in {folder} has other parameters"
    )
    raise UserError(
        f"the adapter in {source} was trained on step {base['step']} of {base['workdir']}, but"
        f" {here}; name the run that it was trained on."
    )


def base_in(stored: Any, reader: CheckpointReader) -> Base:
    """Returns what a checkpoint says of its base."""
    return checked(stored, Base, f"warm_start in {reader.directory}")
