"""The form of meta.json, what a checkpoint says of its run; `session.meta` writes it."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, cast

from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.steps import META
from palmscale.errors import UserError
from palmscale.exit_codes import printable
from palmscale.storage.typed_json import Count, Size, checked


class Rewind(TypedDict):
    """What a rewind recorded; see `palmscale.train.spike_history`."""

    found: Count
    reason: str
    rewound_to: Count
    skipped_rows: Count


class History(TypedDict):
    """The losses and rewinds so far."""

    rewinds: list[Rewind]


class Imported(TypedDict):
    """Where weights came from: the layout of the source, and its name."""

    layout: str
    source: str


class Meta(TypedDict):
    """What a checkpoint says of its run.

    Attributes:
        identity: of the run; see `palmscale.run.identity`.
        vocabulary: its description.
        sequence_length: tokens per row.
        num_params: in all.
        operative_config: the gin configuration; empty for a run that was built in Python.
        mesh: size of each mesh axis.
        versions: of what decides the numbers.
        run: the whole run; 0.1.0 did not keep it.
        rules: logical axis to mesh axis; 0.1.0 did not keep them.
        spike_history: 0.1.0 called it the course.
        warm_start: where the first parameters came from.
        quantized: the type of its weights, such as `int8`, in a copy that `palmscale.run.quantize`
            wrote.
        digest: of the parameters that quantized ones were made from; see
            `CheckpointReader.params_digest`.
        imported: where the weights came from, if not from training here.
    """

    identity: dict[str, Any]
    vocabulary: dict[str, Any]
    sequence_length: Count
    num_params: Count
    operative_config: str
    mesh: dict[str, Size]
    versions: dict[str, str]
    run: NotRequired[dict[str, Any]]
    rules: NotRequired[dict[str, str | list[str] | None]]
    spike_history: NotRequired[History]
    course: NotRequired[History]
    warm_start: NotRequired[dict[str, Any] | None]
    quantized: NotRequired[str]
    digest: NotRequired[str]
    imported: NotRequired[Imported]


def read_meta(reader: CheckpointReader, step: int | None = None) -> Meta:
    """Returns the meta of `step`, by default of the newest step whose meta is intact.

    All processes must call this.

    Raises:
        UserError: there is no checkpoint.
        CorruptionError: the file is damaged, or is not what palmscale writes.
    """
    meta = reader.read_meta(step)
    if meta is None:
        raise UserError(
            f"there is no checkpoint in {reader.directory.parent}; train first, or name another."
        )
    return checked_meta(meta, reader)


def checked_meta(meta: Mapping[str, Any], reader: CheckpointReader) -> Meta:
    """Returns the meta that `reader` has read, which has the form of one.

    Raises:
        CorruptionError: it has not.
    """
    return cast(Meta, checked(meta, Meta, f"{META} in {reader.directory}"))


def check_trainable(meta: Mapping[str, Any] | None, reader: CheckpointReader) -> None:
    """Checks that the weights of checkpoints, of which `reader` has read the meta, can be trained.

    Raises:
        UserError: they are quantized.
    """
    if meta is not None and (quantized := meta.get("quantized")):
        raise UserError(
            f"the weights in {reader.directory.parent} are {printable(str(quantized))}: they"
            " generate, score and serve, and cannot be trained, evaluated on held-out rows or"
            " exported; use the run that they were made from."
        )


def check_resumable(meta: Mapping[str, Any], reader: CheckpointReader) -> None:
    """Checks that training may go on from checkpoints with this meta.

    Raises:
        UserError: their weights are quantized, or were imported and have no state of an optimizer.
    """
    check_trainable(meta, reader)
    if "imported" in meta:
        workdir = reader.directory.parent
        raise UserError(
            f"{workdir} holds imported weights, which no run can resume; choose another workdir,"
            f" and start it from them: WarmStart.workdir={str(workdir)!r}."
        )


def check_whole(meta: Mapping[str, Any] | None, reader: CheckpointReader) -> None:
    """Checks that the checkpoints of which `reader` has read the meta hold whole parameters.

    Raises:
        UserError: they hold adapters alone.
    """
    if meta is not None and has_adapters(meta):
        raise UserError(
            f"the run in {reader.directory.parent} trained adapters (Lora), and its"
            " checkpoints hold nothing else; name the run that they adapt, or merge both into a new"
            " one."
        )


def has_adapters(meta: Mapping[str, Any]) -> bool:
    """Returns whether checkpoints with this meta hold adapters alone; see `Run.trainable`."""
    trainable = meta.get("identity", {}).get("trainable")
    return isinstance(trainable, Mapping) and trainable.get("class") == "Lora"
