"""The losses and rewinds of a run so far, and what follows from them.

They are saved with every checkpoint, so that a resumed run finds the same spikes at the same steps.
"""

import time
from collections.abc import Collection, Mapping
from typing import Any, TypedDict

from palmscale.data.stream import Cursor, RowStream
from palmscale.storage.typed_json import Count, checked
from palmscale.train.spike import (
    Detector,
    Spike,
    SpikePolicy,
    rewind_target,
    steps_to_skip,
    to_keep,
)


class _Window(TypedDict):
    window: list[tuple[float, float]]
    suspect: list[Count]
    non_finite: list[Count]


class _History(TypedDict):
    detector: _Window | None
    rewinds: list[dict[str, Any]]


class SpikeHistory:
    """What has happened so far; `known` is what `to_json` described, None at the beginning.

    Attributes:
        rewinds: one record each, oldest first: when, the steps that went wrong and why, the step
            that was gone back to, and which rows are left out since.
    """

    def __init__(self, policy: SpikePolicy, known: Mapping[str, Any] | None = None) -> None:
        known = known or {"detector": None, "rewinds": []}
        self._policy = policy
        self._detector = Detector(policy, known["detector"])
        self.rewinds: list[dict[str, Any]] = list(known["rewinds"])

    @classmethod
    def of(cls, policy: SpikePolicy, meta: Mapping[str, Any]) -> "SpikeHistory":
        """Returns the history in a checkpoint's meta; 0.1.0 called it the run's course.

        Raises:
            CorruptionError: it is not one.
        """
        known = meta.get("spike_history", meta.get("course"))
        return cls(policy, checked(known, _History | None, "spike_history in meta.json"))

    def to_json(self) -> dict[str, Any]:
        """Returns the history as plain lists and numbers."""
        return {"detector": self._detector.to_json(), "rewinds": self.rewinds}

    def observe(self, step: int, metrics: Mapping[str, float]) -> Spike | None:
        """Returns the spike that the metrics of a step complete."""
        return self._detector.observe(step, loss=metrics["loss"], grad_norm=metrics["grad_norm"])

    def steps_to_keep(self, saved: Collection[int], now: int) -> set[int]:
        """Returns the saved steps that a rewind may need."""
        return to_keep(saved, now, self._policy.rewind_steps)

    def target(self, saved: Collection[int], spike: Spike) -> int:
        """Returns the step to go back to; 0: the beginning."""
        return rewind_target(saved, spike.onset, self._policy.rewind_steps)

    def check_rewinds(self, spike: Spike) -> None:
        """Raises RuntimeError where the run has been rewound as often as it may be."""
        if len(self.rewinds) >= self._policy.max_rewinds:
            raise RuntimeError(
                f"loss spike from step {spike.onset} to {spike.found} ({spike.reason}) after"
                f" {len(self.rewinds)} rewind(s), the maximum (SpikePolicy.max_rewinds); check the"
                " learning rate and the data"
            )

    def rewind(
        self, before: "SpikeHistory", spike: Spike, stream: RowStream, cursor: Cursor
    ) -> Cursor:
        """Records the rewind from `before` to here; returns the cursor past the skipped rows.

        `cursor` is that of the step that the run went back to.
        """
        steps = steps_to_skip(spike, cursor.step, self._policy.skip_steps)
        schedule = stream.schedule
        rows = schedule.rows_before(cursor.step + steps) - schedule.rows_before(cursor.step)
        beyond = stream.skip(cursor, rows)
        record = {
            "time": time.time(),
            "onset": spike.onset,
            "found": spike.found,
            "reason": spike.reason,
            "rewound_to": cursor.step,
            "skipped_rows": rows,
            "skips": [list(span) for span in beyond.skips],
        }
        self.rewinds = [*before.rewinds, record]
        return beyond
