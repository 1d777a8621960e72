"""The checkpoints of a run that trains adapters (LoRA), whose base lies in another run."""

import dataclasses
from typing import Any

from palmscale.checkpoint.reader import CheckpointReader, Snapshot
from palmscale.checkpoint.store import CheckpointStore
from palmscale.checkpoint.warm_start import WarmStart, warm_parameters
from palmscale.model.lora import adapters_of, base_of, joined
from palmscale.run.adapters import base_in, matching_step
from palmscale.run.workdir import checkpoints
from palmscale.trees import named_leaves


class AdapterStore(CheckpointStore):
    """The checkpoints of a run of adapters: their base is neither saved nor restored.

    Trees of parameters are whole for whoever saves and restores.
    """

    def __init__(self, *arguments: Any, base: WarmStart, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._base = base

    def save(self, step: int, *, params: Any, **state: Any) -> None:
        """Starts saving; see `CheckpointStore.save`."""
        super().save(step, params=adapters_of(params), **state)

    def save_last(self, step: int, *, params: Any, **state: Any) -> None:
        """Saves; see `CheckpointStore.save_last`."""
        super().save_last(step, params=adapters_of(params), **state)

    def restore(self, step: Any = None, *, abstract_params: Any, **state: Any) -> Snapshot | None:
        """Restores the adapters, and reads their base anew; see `CheckpointStore.restore`.

        Raises:
            UserError: the base is gone, or has other parameters.
        """
        snapshot = super().restore(step, abstract_params=adapters_of(abstract_params), **state)
        if snapshot is None:
            return None
        base = CheckpointReader(
            checkpoints(self._base.workdir).directory,
            peers=self.peers,
            timeout_seconds=self.timeout_seconds,
        )
        return with_base(snapshot, abstract_params, base, self.directory.parent)


def with_base(
    snapshot: Snapshot, abstract_params: Any, base: CheckpointReader, source: object
) -> Snapshot:
    """Returns a restored checkpoint of adapters with the parameters that they were trained on.

    Args:
        snapshot: with adapters alone.
        abstract_params: shapes with shardings of the parameters with adapters.
        base: the checkpoints of the run that they were trained on.
        source: where the snapshot is stored, for messages.

    Raises:
        UserError: the base is gone, or has other parameters.
    """
    step = matching_step(base, base_in(snapshot.meta.get("warm_start"), base), source)
    warm = WarmStart(workdir=str(base.directory.parent), checkpoint=step)
    _, found = warm_parameters(warm, base, named_leaves(base_of(abstract_params)))
    params = joined(abstract_params, found, named_leaves(snapshot.params))
    return dataclasses.replace(snapshot, params=params)
