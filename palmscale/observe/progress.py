"""Progress lines and bars: live on a terminal, printed periodically elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self

import rich.live
import rich.progress
import rich.progress_bar
import rich.table
import rich.text

from palmscale.observe import log


class Progress:
    """The progress line of a training run from `start_step` to `total_steps`; a context manager.

    On a terminal, the line is updated in place. Elsewhere it is printed every `seconds` and at the
    end. `clock` returns seconds.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        start_step: int = 0,
        seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total_steps = total_steps
        self._step = start_step
        self._seconds = seconds
        self._clock = clock
        self._metrics: dict[str, float] = {}
        self._started = clock()
        # The first step includes compilation, so the rate is measured from its end.
        self._first: tuple[int, float] | None = None
        self._printed = self._started
        self._printed_step: int | None = None
        self._live: rich.live.Live | None = None

    def __enter__(self) -> Self:
        if log.console.is_terminal:
            # Other output appears above the line, unless stdout is redirected.
            self._live = rich.live.Live(
                console=log.console,
                get_renderable=self._renderable,
                refresh_per_second=4,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._step != self._printed_step and self._first is not None:
            self._print()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows that `step` steps are done. Metrics that are not given keep their last value.

        The line shows loss, eval_bits_per_byte, tokens_per_second, mfu and input_wait_fraction.
        """
        self._step = step
        self._metrics.update(metrics)
        now = self._clock()
        if self._first is None:
            self._first = step, now
        if self._live is None and now - self._printed >= self._seconds:
            self._print()

    def text(self) -> str:
        """Returns the line as plain text."""
        parts = [f"step {self._step:,}/{self._total_steps:,}"]
        for name, form in _FORMS.items():
            if name in self._metrics:
                parts.append(form(self._metrics[name]))
        parts.append(_duration(self._clock() - self._started))
        remaining_seconds = self._remaining_seconds()
        if remaining_seconds is not None:
            parts.append(f"{_duration(remaining_seconds)} left")
        return "  ".join(parts)

    def _remaining_seconds(self) -> float | None:
        if self._first is None or self._step <= self._first[0] or self._step >= self._total_steps:
            return None
        first_step, first_seconds = self._first
        seconds_per_step = (self._clock() - first_seconds) / (self._step - first_step)
        return seconds_per_step * (self._total_steps - self._step)

    def _print(self) -> None:
        self._printed, self._printed_step = self._clock(), self._step
        log.show(self.text())

    def _renderable(self) -> rich.table.Table:
        grid = rich.table.Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        bar = rich.progress_bar.ProgressBar(
            total=max(self._total_steps, 1), completed=self._step, width=16
        )
        grid.add_row(bar, rich.text.Text(self.text()))
        return grid


@contextlib.contextmanager
def bar(
    description: str,
    *,
    seconds: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int, int | None], None]]:
    """Yields a function that takes the bytes done and the total bytes (None: not known yet).

    Shows the rate and the time left: as a live bar on a terminal, elsewhere as a plain line every
    `seconds` and at the end.
    """
    if log.console.is_terminal:
        columns = (
            "{task.description}",
            rich.progress.BarColumn(),
            rich.progress.DownloadColumn(),
            rich.progress.TransferSpeedColumn(),
            rich.progress.TimeRemainingColumn(),
        )
        with rich.progress.Progress(
            *columns, console=log.console, redirect_stdout=sys.stdout.isatty()
        ) as shown:
            task = shown.add_task(description, total=None)
            yield lambda done, total: shown.update(task, completed=done, total=total)
        return

    started = printed = clock()
    # The work of an earlier, killed run must not count toward this one's rate.
    first = last = None
    total = None

    def line() -> str:
        elapsed = max(clock() - started, 1e-9)
        parts = [f"{description}: {last / 1e6:,.1f} MB"]
        if total:
            parts[0] += f" of {total / 1e6:,.1f} MB"
        rate = (last - first) / elapsed
        parts.append(f"{rate / 1e6:,.1f} MB/s")
        if total and rate and last < total:
            parts.append(f"{_duration((total - last) / rate)} left")
        return "  ".join(parts)

    def update(done: int, of: int | None) -> None:
        nonlocal printed, first, last, total
        first = 0 if first is None else first
        last, total = done, of
        if clock() - printed >= seconds:
            printed = clock()
            log.show(line())

    yield update
    if last is not None:
        log.show(line())


@contextlib.contextmanager
def bars() -> Iterator[Callable[[str, int, int | None], None]]:
    """Yields a callback that shows one bar after another, each from its first call."""
    with contextlib.ExitStack() as stack:
        current: str | None = None
        update = None

        def show_progress(what: str, done_bytes: int, total_bytes: int | None) -> None:
            nonlocal current, update
            if what != current:
                stack.close()
                current = what
                update = stack.enter_context(bar(what))
            update(done_bytes, total_bytes)

        yield show_progress


def _rate(tokens_per_second: float) -> str:
    thousands = tokens_per_second / 1e3
    return f"{thousands:,.1f}k tokens/s" if thousands >= 1 else f"{tokens_per_second:.0f} tokens/s"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


# In the order shown.
_FORMS: dict[str, Callable[[float], str]] = {
    "loss": lambda value: f"loss {value:.4f}",
    "eval_bits_per_byte": lambda value: f"held-out {value:.3f} bits/byte",
    "tokens_per_second": _rate,
    "mfu": lambda value: f"MFU {value:.1%}",
    "input_wait_fraction": lambda value: f"input wait {value:.0%}",
}
