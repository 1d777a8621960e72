import io

import pytest
import rich.console

from palmscale.observe import log
from palmscale.observe.progress import Progress, bar


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def screen(monkeypatch, *, terminal):
    console = rich.console.Console(file=io.StringIO(), force_terminal=terminal, width=140)
    monkeypatch.setattr(log, "console", console)
    return console.file


METRICS = {
    "loss": 2.25,
    "tokens_per_second": 13_100.0,
    "mfu": 0.462,
    "input_wait_fraction": 0.02,
    "grad_norm": 1.0,
}


def test_the_line_shows_what_is_known_and_the_time_left(clock):
    progress = Progress(total_steps=1100, start_step=100, clock=clock)
    clock.seconds = 50  # compilation does not count
    progress.update(101, {"eval_bits_per_byte": 2.1})
    assert progress.text() == "step 101/1,100  held-out 2.100 bits/byte  0:00:50"
    clock.seconds = 60
    progress.update(111, METRICS)
    assert progress.text() == (
        "step 111/1,100  loss 2.2500  held-out 2.100 bits/byte  13.1k tokens/s  MFU 46.2%  "
        "input wait 2%  0:01:00  0:16:29 left"
    )


def test_without_a_terminal_a_plain_line_comes_every_ten_seconds_and_at_the_end(clock, monkeypatch):
    out = screen(monkeypatch, terminal=False)
    with Progress(total_steps=25, clock=clock) as progress:
        for step in range(1, 26):
            clock.seconds = step
            progress.update(step, {"loss": 1.0})
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["10/25", "20/25", "25/25"]
    assert "\x1b" not in out.getvalue()


def test_the_last_line_is_not_printed_twice_nor_where_nothing_was_done(clock, monkeypatch):
    out = screen(monkeypatch, terminal=False)
    with Progress(total_steps=1, clock=clock):
        pass
    assert out.getvalue() == ""
    with Progress(total_steps=1, clock=clock) as progress:
        clock.seconds = 11
        progress.update(1, {})
    assert len(out.getvalue().splitlines()) == 1


def test_on_a_terminal_other_messages_stand_above_the_live_line(clock, monkeypatch):
    out = screen(monkeypatch, terminal=True)
    log.set_up()
    with Progress(total_steps=2, clock=clock) as progress:
        progress.update(1, METRICS)
        log.warn("look out")
    assert any(
        "warning: look out" in line and "step" not in line for line in out.getvalue().splitlines()
    )
    assert "step 1/2" in out.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_counts_bytes(terminal, clock, monkeypatch):
    out = screen(monkeypatch, terminal=terminal)
    with bar("building the cache", clock=clock) as update:
        for done in range(1, 5):
            clock.seconds += 6
            update(done * 10_000_000, 40_000_000)
    assert "building the cache" in out.getvalue()
    if not terminal:
        assert out.getvalue().splitlines() == [
            "building the cache: 20.0 MB of 40.0 MB  1.7 MB/s  0:00:12 left",
            "building the cache: 40.0 MB of 40.0 MB  1.7 MB/s",
            "building the cache: 40.0 MB of 40.0 MB  1.7 MB/s",
        ]
