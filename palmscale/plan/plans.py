"""Plans: verdicts with what does not depend on the compiler, the token budget and the price."""

import dataclasses
from typing import Any

from palmscale.plan.verdict import DoesNotFit, Fits, Speed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What the whole run takes at one speed; `dollars` is None without a price."""

    days: float
    chip_hours: float
    dollars: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of one batch size.

    Attributes:
        verdict: of its step.
        tokens_to_train: in the whole run.
        dollars_per_chip_hour: None: no price is known.
    """

    verdict: Fits | DoesNotFit
    tokens_to_train: int
    dollars_per_chip_hour: float | None = None

    def cost(self, speed: Speed) -> Cost:
        """Returns what the whole run takes if every step has this speed."""
        verdict = self.verdict
        tokens_per_step = verdict.batch_sequences * verdict.sequence_length
        seconds = self.tokens_to_train / tokens_per_step * speed.step_seconds
        chip_hours = seconds / 3600 * verdict.chips
        price = self.dollars_per_chip_hour
        return Cost(
            days=seconds / 86400,
            chip_hours=chip_hours,
            dollars=None if price is None else price * chip_hours,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plans:
    """The plans of a run, one for each batch size, in ascending order.

    Attributes:
        versions: of what decides a run's numbers, by name.
        run: the run, as JSON; see palmscale.run.identity.describe.
        plans: at least one.
    """

    versions: dict[str, str]
    run: Any
    plans: tuple[Plan, ...]

    @property
    def verdict(self) -> Fits | DoesNotFit:
        """That of the largest batch."""
        return self.plans[-1].verdict

    @property
    def fits(self) -> bool:
        """Whether every batch fits."""
        return all(plan.verdict.fits for plan in self.plans)
