"""Which checkpoints to keep: a pure function of what there is."""

import dataclasses
import math
from collections.abc import Collection, Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeepPolicy:
    """What is kept: the `latest` newest steps, every multiple of `every_steps`, the `best` ones.

    `best_metric` is the name of the metric that ranks the steps, lower is better; a step that was
    saved without it, or with a value that is not finite, is not ranked.
    """

    latest: int = 3
    every_steps: int | None = None
    best: int = 1
    best_metric: str = "held_out_bits_per_byte"

    def __post_init__(self) -> None:
        if self.latest < 1:
            raise ValueError(f"latest={self.latest}; use at least 1, or nothing can be resumed.")
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(f"every_steps={self.every_steps}; use a positive number or None.")
        if self.best < 0:
            raise ValueError(f"best={self.best}; use 0 or more.")


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
    protected: Collection[int] = (),
) -> list[int]:
    """The steps out of the verified `steps` that `policy` does not keep, oldest first.

    `metrics` holds each step's metrics. Never the newest step, never one in `protected`.
    """
    keep = set(protected) | set(sorted(steps)[-policy.latest :])
    if policy.every_steps is not None:
        keep |= {step for step in steps if step % policy.every_steps == 0}
    known = {step: metrics[step] for step in steps if step in metrics}
    keep |= set(ranked_by_metric(known, policy.best_metric)[: policy.best])
    return sorted(set(steps) - keep)
