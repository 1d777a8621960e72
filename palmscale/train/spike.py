"""Loss spikes, by the paper's recipe: go back about 100 steps and skip the next 200 to 500 batches.

Everything here is a pure function of what the steps reported, so all hosts come to one verdict, and
a run that is killed and resumed to the same one. (PaLM, section 5.1, 'Training instability'.)
"""

import dataclasses
import math
import statistics
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

from palmscale.errors import UserError

_MAD_TO_DEVIATION = 1.4826  # of a normal distribution


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpikePolicy:
    """What counts as a spike, and what is done about it.

    A step is suspect when its loss exceeds the median of the last `window_steps` steps by
    `deviations` robust standard deviations and by `least_rise` of it; or when its gradient norm
    exceeds its own median by `gradient_rise` times. `patience_steps` suspect steps on end are a
    spike, and so are `non_finite_steps` on end whose loss or gradient is not finite: the parameters
    were kept in those.

    Attributes:
        window_steps: steps that the medians are taken of; neither suspect ones nor such as are not
            finite are among them. Before it is half full nothing is suspect.
        deviations: of the loss, in robust standard deviations (1.4826 median absolute deviations).
        least_rise: of the loss, as a fraction of its median.
        gradient_rise: of the gradient norm, as a multiple of its median.
        patience_steps: suspect steps on end that make a spike.
        non_finite_steps: steps on end that are not finite and make one.
        rewind_steps: from the spike's first step back to the checkpoint to go on from, at least.
        skip_steps: batches to leave out from there on; at least those up to the spike.
        max_rewinds: in a run, after which the next spike ends it.
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
    """A verdict: the steps since `onset` went wrong, which was seen at `found`."""

    onset: int
    found: int
    reason: str


class Detector:
    """Reads the metrics of every step in order, and finds spikes.

    Args:
        policy: what counts as one.
        known: what `to_json` described; None: nothing is known yet.
    """

    def __init__(self, policy: SpikePolicy, known: Mapping[str, Any] | None = None) -> None:
        self._policy = policy
        known = known or {"window": [], "suspect": [], "non_finite": []}
        self._window = deque(map(tuple, known["window"]), maxlen=policy.window_steps)
        self._suspect: list[int] = list(known["suspect"])
        self._non_finite: list[int] = list(known["non_finite"])

    def to_json(self) -> dict[str, Any]:
        """Returns what is known, as plain lists and numbers: the next verdicts follow from it."""
        return {
            "window": [list(values) for values in self._window],
            "suspect": self._suspect,
            "non_finite": self._non_finite,
        }

    def observe(self, step: int, *, loss: float, grad_norm: float) -> Spike | None:
        """Returns the spike that ends the patience at `step`; None: train on."""
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
            return f"loss {loss:.4g}, where the median is {median:.4g}"
        usual = statistics.median(norms)
        if grad_norm > self._policy.gradient_rise * usual:
            return f"gradient norm {grad_norm:.3g}, where the median is {usual:.3g}"
        return ""


def rewind_target(saved: Collection[int], onset: int, rewind_steps: int) -> int:
    """Returns the step to go back to: the newest saved one `rewind_steps` before `onset`, or more.

    0, the beginning, where none is that old.
    """
    return max((step for step in saved if step <= onset - rewind_steps), default=0)


def to_keep(saved: Collection[int], now: int, rewind_steps: int) -> set[int]:
    """Returns the saved steps that a rewind from `now` or later may need; at most a few.

    The present target, and of the newer ones as many as leave no gap wider than `rewind_steps`: so
    a later rewind goes back less than twice that, wherever there was a save at all.
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
    """Returns how many batches from the target on to leave out: `skip_steps`, and all gone wrong.

    The paper's 200 to 500 cover the batches that were seen before and during the spike.
    """
    return max(skip_steps, spike.found - target)
