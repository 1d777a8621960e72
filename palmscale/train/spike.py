"""Loss spikes, handled as in the paper: rewind about 100 steps and skip 200 to 500 batches.

Everything here is a pure function of the reported metrics, so all hosts reach the same verdict, and
so does a run that was killed and resumed. (PaLM, section 5.1, 'Training instability'.)
"""

import dataclasses
import math
import statistics
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

from palmscale.errors import UserError

_MAD_TO_DEVIATION = 1.4826  # standard deviation / MAD of a normal distribution


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpikePolicy:
    """What counts as a loss spike, and how the run recovers.

    A step is suspect if its loss exceeds the median of the last `window_steps` steps by both
    `deviations` robust standard deviations and the fraction `least_rise`, or if its gradient norm
    exceeds `gradient_rise` times its median. A spike is `patience_steps` consecutive suspect steps,
    or `non_finite_steps` consecutive steps whose loss or gradient is not finite. Such steps have
    left the parameters unchanged.

    Attributes:
        window_steps: number of steps in the medians, without suspect or non-finite ones. Until the
            window is half full, no step is suspect.
        deviations: threshold of the loss, in robust standard deviations (1.4826 median absolute
            deviations).
        least_rise: threshold of the loss, as a fraction of its median.
        gradient_rise: threshold of the gradient norm, as a multiple of its median.
        patience_steps: consecutive suspect steps that make a spike.
        non_finite_steps: consecutive non-finite steps that make a spike.
        rewind_steps: minimum distance from the spike's first step back to the rewind target.
        skip_steps: batches to skip from the target on; at least those up to the spike are skipped.
        max_rewinds: rewinds allowed in a run; the next spike ends it.

    Raises:
        UserError: a field is out of range.
    """

    window_steps: int = 128
    deviations: float = 10.0
    least_rise: float = 0.1
    gradient_rise: float = 100.0
    patience_steps: int = 5
    non_finite_steps: int = 3
    rewind_steps: int = 100
    skip_steps: int = 300
    max_rewinds: int = 20

    def __post_init__(self) -> None:
        for field, value in dataclasses.asdict(self).items():
            least = 0 if field in ("max_rewinds", "least_rise") else 1
            if not value >= least:
                raise UserError(f"SpikePolicy.{field}={value} must be at least {least}.")


@dataclasses.dataclass(frozen=True)
class Spike:
    """A detected spike: its first step is `onset`, and it was detected at step `found`."""

    onset: int
    found: int
    reason: str


class Detector:
    """Detects spikes from the metrics of every step, in order.

    Args:
        policy: what counts as a spike.
        known: the value of `to_json` to continue from; None: start empty.
    """

    def __init__(self, policy: SpikePolicy, known: Mapping[str, Any] | None = None) -> None:
        self._policy = policy
        known = known or {"window": [], "suspect": [], "non_finite": []}
        self._window = deque(map(tuple, known["window"]), maxlen=policy.window_steps)
        self._suspect: list[int] = list(known["suspect"])
        self._non_finite: list[int] = list(known["non_finite"])

    def to_json(self) -> dict[str, Any]:
        """Returns the detector's state as plain lists and numbers."""
        return {
            "window": [list(values) for values in self._window],
            "suspect": self._suspect,
            "non_finite": self._non_finite,
        }

    def observe(self, step: int, *, loss: float, grad_norm: float) -> Spike | None:
        """Returns the spike that `step` completes, or None to continue training."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._non_finite.append(step)
            if len(self._non_finite) < self._policy.non_finite_steps:
                return None
            reason = f"loss {loss:g}, gradient norm {grad_norm:g}"
            return Spike(self._non_finite[0], step, f"{len(self._non_finite)} steps: {reason}")
        self._non_finite.clear()
        if reason := self._suspicion(loss, grad_norm):
            self._suspect.append(step)
            if len(self._suspect) < self._policy.patience_steps:
                return None
            return Spike(self._suspect[0], step, reason)
        self._suspect.clear()
        self._window.append((loss, grad_norm))
        return None

    def _suspicion(self, loss: float, grad_norm: float) -> str:
        if len(self._window) < max(self._policy.window_steps // 2, 1):
            return ""
        losses, norms = zip(*self._window, strict=True)
        median = statistics.median(losses)
        spread = statistics.median(abs(x - median) for x in losses) * _MAD_TO_DEVIATION
        rise = max(self._policy.deviations * spread, self._policy.least_rise * abs(median))
        if loss > median + rise:
            return f"loss {loss:.4g}, median {median:.4g}"
        usual = statistics.median(norms)
        if grad_norm > self._policy.gradient_rise * usual:
            return f"gradient norm {grad_norm:.3g}, median {usual:.3g}"
        return ""


def rewind_target(saved: Collection[int], onset: int, rewind_steps: int) -> int:
    """Returns the newest saved step that is at least `rewind_steps` before `onset`.

    Returns 0, the start of the run, if there is none.
    """
    return max((step for step in saved if step <= onset - rewind_steps), default=0)


def to_keep(saved: Collection[int], now: int, rewind_steps: int) -> set[int]:
    """Returns the few saved steps that a rewind from `now` or later may need.

    These are the current target, and enough newer steps to leave no gap wider than `rewind_steps`.
    A later rewind then goes back less than twice that, if saves were frequent enough.
    """
    target = rewind_target(saved, now, rewind_steps)
    kept, last = {target} & set(saved), target
    newer = sorted(step for step in saved if step > target)
    for step, following in zip(newer, [*newer[1:], math.inf]):
        if following - last > rewind_steps:
            kept.add(step)
            last = step
    return kept


def steps_to_skip(spike: Spike, target: int, skip_steps: int) -> int:
    """Returns the number of batches to skip from the target on: `skip_steps`, or more.

    All batches up to the spike are skipped. The paper's 200 to 500 batches also cover those seen
    before and during the spike.
    """
    return max(skip_steps, spike.found - target)
