"""A copy of a run's folder with quantized weights, to generate from."""

import dataclasses
from collections.abc import Iterable

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.steps import CURSOR, StepFolders
from palmscale.checkpoint.store import CheckpointStore
from palmscale.errors import UserError
from palmscale.infer.partition import parameter_bytes
from palmscale.run.load import load
from palmscale.run.stored_meta import check_whole
from palmscale.run.stored_weights import as_stored
from palmscale.run.workdir import CHECKPOINTS, VOCABULARY, Workdir, checkpoints, choose
from palmscale.storage.place import place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """What was written.

    Attributes:
        step: of the checkpoint.
        bytes: of its parameters.
    """

    step: int
    bytes: int


def quantize(
    workdir: Workdir,
    to: Workdir,
    *,
    weights: str = "int8",
    checkpoint: int | str = "latest",
    modules: Iterable[str] = (),
) -> Quantized:
    """Writes a checkpoint with quantized weights and the run's vocabulary to a folder of its own.

    It is verified like any other, generates, scores and serves, and cannot be trained. The
    parameters are loaded one after another: one of them exists beside the quantized ones.

    Args:
        workdir: the run's folder.
        to: the new folder, which has no checkpoints.
        weights: `int8`, `int4` or `fp8`; see `palmscale.infer.quantized`.
        checkpoint: `latest`, `best` or a step.
        modules: to import, whose Linen modules the checkpoint may name; see `palmscale.load`.

    Raises:
        UserError: there is no such checkpoint, its weights are quantized already or cannot be, it
            holds adapters alone, or `to` has checkpoints.
        NotSaved: it could not be written.
    """
    if (place(to) / CHECKPOINTS).is_dir():
        raise UserError(f"{to} has checkpoints already; choose a folder that has none.")
    reader = checkpoints(workdir)
    info = choose(reader, checkpoint)
    check_whole(reader.read_meta(info.step), reader)
    trained = load(workdir, info.step, quantize=weights, modules=modules)
    if trained.meta.get("quantized"):
        raise UserError(f"the weights in {workdir} are {weights} already; copy the folder.")
    with Lease(to) as lease, CheckpointStore(place(to) / CHECKPOINTS, lease=lease) as store:
        vocabulary = place(to) / VOCABULARY
        vocabulary.mkdir(parents=True, exist_ok=True)
        trained.vocabulary.save(vocabulary)
        store.save_last(
            info.step,
            params=as_stored(trained.params),
            optimizer_state={},
            cursor=StepFolders(reader.directory).read_json(info.step, CURSOR),
            meta={
                **trained.meta,
                "quantized": weights,
                "digest": reader.params_digest(info.step),
            },
            metrics=info.metrics,
        )
    return Quantized(step=info.step, bytes=parameter_bytes(trained.params))
