"""Which checkpoints to keep, as a pure function, and how often to retry a failed save."""

import dataclasses
import math
from collections.abc import Collection, Mapping

from palmscale.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeepPolicy:
    """Which verified steps to keep. Pinned steps are always kept.

    Attributes:
        latest: number of newest steps to keep.
        every_steps: keep every multiple of this step number; None: no such steps.
        every_seconds: keep a step whenever this much time has passed since the last one kept by
            this rule; None: no such steps.
        best: number of steps with the lowest `best_metric` to keep. Steps saved without the metric,
            or with a value that is not finite, are not ranked.
        best_metric: name of the metric; lower is better.
    """

    latest: int = 3
    every_steps: int | None = None
    every_seconds: float | None = None
    best: int = 1
    best_metric: str = "eval_loss"

    def __post_init__(self) -> None:
        if self.latest < 1:
            raise UserError(
                f"KeepPolicy.latest={self.latest} must be at least 1, or the run cannot resume."
            )
        for field in ("every_steps", "every_seconds"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise UserError(f"KeepPolicy.{field}={value} must be positive, or None.")
        if self.best < 0:
            raise UserError(f"KeepPolicy.best={self.best} must be at least 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retries:
    """How a run handles failed saves: it continues and saves a later step instead.

    Attributes:
        failures: consecutive saves that may fail; one more ends the run. At least 0.
        wait_seconds: longest time from the start of a failed save to the next attempt.
    """

    failures: int = 5
    wait_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.failures < 0:
            raise UserError(f"Retries.failures={self.failures} must be at least 0.")
        if not self.wait_seconds >= 0:
            raise UserError(f"Retries.wait_seconds={self.wait_seconds} must be at least 0.")


def ranked_by_metric(metrics: Mapping[int, Mapping[str, float]], name: str) -> list[int]:
    """Returns the steps that have a finite metric `name`, lowest first; ties newest first."""
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
    """Returns the verified `steps` that `policy` does not keep, oldest first.

    Never includes the newest step or a step in `protected`.

    Args:
        policy: what to keep.
        steps: the verified steps.
        metrics: each step's metrics.
        times: when each step was saved, in seconds that never decrease from step to step.
        protected: steps that must be kept.
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
