"""The back-test's arithmetic and its table, for the terminal and as a Markdown page."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from published_runs import PublishedRun

from palmscale.plan.hardware.chips import CHIPS
from palmscale.plan.plans import Plan
from palmscale.plan.report import numbers
from palmscale.plan.verdict import Fits, Prediction

NOT_RUN, NO_CLOCK, TOO_LARGE = "not run", "unknown: no clock", "does not fit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The plan of a row.

    Attributes:
        versions: that it was made with, by name.
        peak_flops: FLOP/s of a chip.
        attention_flops_per_token: of training, whole attention.
        plan: of one step.
    """

    versions: Mapping[str, str]
    peak_flops: float
    attention_flops_per_token: float
    plan: Plan

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"plan": numbers.to_json(self.plan)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Result":
        """Returns what `to_json` wrote."""
        return cls(**{**value, "plan": numbers.from_json(value["plan"])})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """A row and what was predicted of it.

    Attributes:
        run: the row.
        result: its plan; None: the row was not run.
    """

    run: PublishedRun
    result: Result | None

    @property
    def state(self) -> str:
        """Why there is no prediction; "" where there is one."""
        if not self.can_be_predicted:
            return NO_CLOCK
        if self.result is None:
            return NOT_RUN
        return "" if self.result.plan.verdict.fits else TOO_LARGE

    @property
    def can_be_predicted(self) -> bool:
        """A clock of its chip is known."""
        return CHIPS[self.run.topology.partition(":")[0]].clock_hz is not None

    @property
    def reported_tokens(self) -> float | None:
        """Tokens a second and chip, computed from an MFU by the FLOPs that the source counts."""
        if self.run.tokens_per_second_per_chip is not None:
            return self.run.tokens_per_second_per_chip
        if self.result is None or self.run.mfu is None:
            return None
        flops = self._weights + self.run.attention_counted * self._attention
        return self.run.mfu * self.result.peak_flops / flops

    @property
    def reported_mfu(self) -> float | None:
        """By the paper's definition: 6N a token and whole attention."""
        if self.result is None or self.reported_tokens is None:
            return None
        flops = self._weights + self._attention
        return self.reported_tokens * flops / self.result.peak_flops

    @property
    def prediction(self) -> Prediction | None:
        """Bounds of the step time; None where there is no prediction."""
        if self.state or self.result is None or not isinstance(self.result.plan.verdict, Fits):
            return None
        return self.result.plan.verdict.prediction

    @property
    def interval(self) -> tuple[float, float] | None:
        """The predicted MFU by the same definition: at the upper and lower bound of the time."""
        if self.prediction is None:
            return None
        return self.prediction.upper_bound.mfu, self.prediction.lower_bound.mfu

    @property
    def error(self) -> float | None:
        """Of the interval's midpoint, as a part of what was reported."""
        if self.interval is None or self.reported_mfu is None:
            return None
        return sum(self.interval) / 2 / self.reported_mfu - 1

    @property
    def is_inside(self) -> bool:
        """The reported value lies in the interval."""
        low, high = self.interval or (1.0, 0.0)
        return low <= (self.reported_mfu or 0.0) <= high

    @property
    def _weights(self) -> float:
        return 6.0 * self.result.plan.verdict.parameters if self.result else 0.0

    @property
    def _attention(self) -> float:
        return self.result.attention_flops_per_token if self.result else 0.0


def mean_absolute_error(outcomes: Sequence[Outcome]) -> float | None:
    """Returns the mean of |error| over the rows that have one; None: none has."""
    errors = [abs(one.error) for one in outcomes if one.error is not None]
    return statistics.fmean(errors) if errors else None


_HEADINGS = ("run", "reported", "predicted MFU", "error", "inside", "seconds a step", "HBM")


def table(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Returns the rows of the table, its headings first."""
    return [list(_HEADINGS), *map(_row, outcomes)]


def _row(one: Outcome) -> list[str]:
    if one.result is None or one.reported_mfu is None:
        return [one.run.name, _as_given(one.run), one.state, "-", "-", "-", "-"]
    reported = f"{one.reported_mfu:.1%}"
    verdict = one.result.plan.verdict
    memory = verdict.memory
    hbm = f"{memory.needed_bytes / 2**30:.1f} of {memory.offered_bytes / 2**30:.1f} GiB"
    if one.prediction is None or one.interval is None or one.error is None:
        return [one.run.name, reported, one.state, "-", "-", "-", hbm]
    low, high = one.interval
    least, most = one.prediction.lower_bound.step_seconds, one.prediction.upper_bound.step_seconds
    tokens = verdict.batch_sequences * verdict.sequence_length / verdict.chips
    took = tokens / one.reported_tokens if one.reported_tokens else 0.0
    return [
        one.run.name,
        reported,
        f"{low:.1%} to {high:.1%}",
        f"{one.error:+.1%}",
        "yes" if one.is_inside else "no",
        f"{least:.2f} to {most:.2f}; took {took:.2f}",
        hbm,
    ]


def summary(outcomes: Sequence[Outcome]) -> str:
    """Returns the result in one sentence."""
    predicted = [one for one in outcomes if one.error is not None]
    mean = mean_absolute_error(outcomes)
    if mean is None:
        return f"No prediction of {len(outcomes)} rows."
    inside = sum(one.is_inside for one in predicted)
    return (
        f"Mean absolute error of the midpoint: {mean:.1%} over {len(predicted)} of {len(outcomes)}"
        f" rows; in {inside} of them the reported value lies inside the interval."
    )


def text(outcomes: Sequence[Outcome]) -> str:
    """Returns the table for a terminal."""
    rows = table(outcomes)
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join(["", *lines, "", summary(outcomes)])


_PAGE = """\
# How far off a plan is

Runs whose speed somebody published, planned by `palmscale plan`'s own code and compared. Nothing in
the planner is fitted to them. Written by

```
{command}
```

{summary}

{table}

{versions}. How a prediction comes about, and what it leaves out:
[planning.md](planning.md).

## Reading it

- *Reported* and *predicted MFU* are by the paper's definition (PaLM, appendix B): 6 FLOPs a
  parameter and token, and whole attention. Sources count otherwise: the list below says what was
  converted. A speed in tokens needs no definition; the error is the same in both.
- *Predicted* is an interval. At the upper bound of the step time, compute takes the compiler's
  cycles and nothing overlaps; at the lower bound, matmuls run at the chip's peak and everything
  overlaps that the compiler made asynchronous. *Error* is that of the interval's midpoint, as a
  part of the reported MFU; *inside* says whether the reported MFU lies in the interval.
- *Took* is the reported speed as seconds a step.
- A step that does not fit has no prediction, although the published run took place: neither the
  compiler nor the step is that of the run.

## What each row is

{rows}
{remarks}"""


def page(outcomes: Sequence[Outcome], facts: Mapping[str, str], command: str, remarks: str) -> str:
    """Returns the Markdown page.

    Args:
        outcomes: of all rows.
        facts: date and versions, by name.
        command: that wrote it.
        remarks: a section in Markdown, kept from the page as it was.
    """
    headings, *rows = table(outcomes)
    rule = ["---"] * len(headings)
    markdown = "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))
    return _PAGE.format(
        command=command,
        summary=summary(outcomes),
        table=markdown,
        versions=", ".join(f"{name} {value}" for name, value in facts.items()),
        rows="\n".join(map(_described, outcomes)),
        remarks=remarks,
    )


def _as_given(run: PublishedRun) -> str:
    if run.mfu is not None:
        return f"{run.mfu:.1%}"
    return f"{run.tokens_per_second_per_chip:,.0f} tokens a second and chip"


def _described(one: Outcome) -> str:
    run = one.run
    mesh = f"model {run.model_parallel}, the rest data"
    if run.slices > 1:
        mesh = f"{run.slices} replicas, {mesh}"
    shape = ", ".join(f"{key} {value}" for key, value in (run.decoder or {}).items() if value)
    counted = {0.0: "no", 0.5: "half of", 1.0: "whole"}[run.attention_counted]
    given = _as_given(run)
    if run.mfu is not None:
        given = f"MFU {given}, which counts {counted} attention"
    lines = [
        f"**{run.name}**: {given} ({run.source}).",
        f"{run.slices} x {run.topology}, {mesh}; {run.sequences:,} sequences of {run.length:,}."
        f" Setting: {run.setting}." + (f" Decoder: {shape}." if shape else f" {run.gin_file}."),
    ]
    if run.assumed:
        lines.append(f"Assumed or different: {'; '.join(run.assumed)}.")
    return "- " + "\n  ".join(lines)
