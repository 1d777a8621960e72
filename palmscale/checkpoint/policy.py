"""Which checkpoints to keep, a pure function of what there is, and how often to try again."""

import dataclasses
import math
from collections.abc import Collection, Mapping

from palmscale.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeepPolicy:
    """What is kept of the verified steps; pinned ones are kept besides.

    Attributes:
        latest: the newest ones, as many.
        every_steps: every multiple of it.
        every_seconds: one each time that as many seconds have passed since the last one so kept.
        best: those with the lowest `best_metric`, as many; a step that was saved without it, or
            with a value that is not finite, is not ranked.
        best_metric: the name of the metric, lower is better.
    """

    latest: int = 3
    every_steps: int | None = None
    every_seconds: float | None = None
    best: int = 1
    best_metric: str = "held_out_loss"

    def __post_init__(self) -> None:
        if self.latest < 1:
            raise UserError(f"latest={self.latest}; use at least 1, or nothing can be resumed.")
        if self.every_steps is not None and self.every_steps < 1:
            raise UserError(f"every_steps={self.every_steps}; use a positive number or None.")
        if self.every_seconds is not None and not self.every_seconds > 0:
            raise UserError(f"every_seconds={self.every_seconds}; use a positive number or None.")
        if self.best < 0:
            raise UserError(f"best={self.best}; use 0 or more.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retries:
    """What is done about saves that fail: the run goes on, and a later step is saved instead.

    Attributes:
        failures: saves that may fail one after another; one more ends the run. At least 0.
        wait_seconds: from the start of a failed save to the next one, where none is due before.
    """

    failures: int = 5
    wait_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.failures < 0:
            raise UserError(f"failures={self.failures}; use 0 or more.")
        if not self.wait_seconds >= 0:
            raise UserError(f"wait_seconds={self.wait_seconds}; use 0 or more.")


def ranked_by_metric(metrics: Mapping[int, Mapping[str, float]], name: str) -> list[int]:
    """The steps that have a finite metric `name`, lowest first; of equals, newest first."""
    ranked = [
        (values[name], -step)
        for step, values in metrics.items()
        if math.isfinite(values.get(name, math.nan))
    ]
    return [-negative_step for _, negative_step in sorted(ranked)]


def steps_to_delete(
    policy: KeepPolicy,
    *,
    steps: Collection[int],
    metrics: Mapping[int, Mapping[str, float]],
    times: Mapping[int, float] = {},
    protected: Collection[int] = (),
) -> list[int]:
    """The steps out of the verified `steps` that `policy` does not keep, oldest first.

    `metrics` holds each step's metrics, `times` when it was saved, in seconds. Never the newest
    step, never one in `protected`.
    """
    keep = set(protected) | set(sorted(steps)[-policy.latest :])
    if policy.every_steps is not None:
        keep |= {step for step in steps if step % policy.every_steps == 0}
    if policy.every_seconds is not None:
        next_time = -math.inf
        for step in sorted(times.keys() & set(steps)):
            if times[step] >= next_time:
                keep.add(step)
                next_time = times[step] + policy.every_seconds
    known = {step: metrics[step] for step in steps if step in metrics}
    keep |= set(ranked_by_metric(known, policy.best_metric)[: policy.best])
    return sorted(set(steps) - keep)
