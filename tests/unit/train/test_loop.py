"""The loop keeps one step in flight, tells of each step once, and stops where it was told to."""

import pytest

from palmscale.data.stream import BatchSchedule, Cursor, RowStream, Shuffled
from palmscale.errors import UserError
from palmscale.observe.throughput import Throughput
from palmscale.train.loop import Hooks, Periods, train
from palmscale.train.spike import Spike

TOKENS = 7


class Rows:
    """A split that nobody reads."""

    num_rows, sequence_length = 1000, 4


class Value:
    """A metric on the device: reading it is an event."""

    def __init__(self, number, event, events):
        self.number, self.event, self.events = number, event, events

    def __float__(self):
        if self.event:
            self.events.append(self.event)
        return float(self.number)


class Run:
    """A run whose step, feed and callbacks only note down what happens."""

    def __init__(self, *, skipped_steps=(), feed_fails_at=None, **hooks):
        self.more_hooks = hooks
        self.events, self.reported, self.saved = [], [], []
        self.skipped_steps, self.feed_fails_at = skipped_steps, feed_fails_at
        self.stream = RowStream(
            rows=Shuffled(Rows(), seed=0), schedule=BatchSchedule(((0, 2), (3, 5)))
        )

    def feed(self, cursor):
        self.restart(cursor)
        while True:
            cursor = self.next_cursor
            if cursor.step == self.feed_fails_at:
                raise OSError("a disk is gone")
            self.next_cursor = self.stream.advance(cursor)
            yield cursor, cursor.next_row

    def restart(self, cursor):
        self.next_cursor = cursor

    def step(self, state, batch):
        done = state + 1
        self.events.append(f"dispatch {done}")
        skipped = float(done in self.skipped_steps)
        metrics = {"loss": Value(batch, f"read {done}", self.events), "tokens": TOKENS}
        return done, metrics | {"skipped": skipped}

    def report(self, done, metrics):
        self.events.append(f"report {done}")
        self.reported.append((done, dict(metrics)))

    def evaluate(self, state):
        self.events.append(f"evaluate {state}")
        return {"held_out_loss": 10.0 + state}

    def save(self, done, state, cursor, held_out):
        self.events.append(f"save {done}")
        self.saved.append((done, state, cursor, dict(held_out)))

    def train(
        self,
        *,
        cursor=None,
        train_steps=4,
        eval_every=None,
        save_every=None,
        rates_every=10,
        check_every=None,
    ):
        cursor = cursor or Cursor()
        state, self.cursor = train(
            cursor.step,
            step_at=lambda cursor: self.step,
            feed=self.feed(cursor),
            stream=self.stream,
            cursor=cursor,
            train_steps=train_steps,
            periods=Periods(
                eval_every_steps=eval_every,
                save_every_steps=save_every,
                rates_every_steps=rates_every,
                check_every_steps=check_every,
            ),
            throughput=Throughput(),
            hooks=Hooks(
                report=self.report, evaluate=self.evaluate, save=self.save, **self.more_hooks
            ),
        )
        return state


def test_the_next_step_is_dispatched_before_the_last_ones_metrics_are_read():
    run = Run()
    assert run.train(train_steps=3) == 3
    assert run.events == [
        "dispatch 1",
        "dispatch 2",
        "read 1",
        "report 1",
        "dispatch 3",
        "read 2",
        "report 2",
        # The last step evaluates while nothing else runs, is reported with it, and is saved.
        "evaluate 3",
        "read 3",
        "report 3",
        "save 3",
    ]


@pytest.mark.parametrize("periods", [(None, None), (1, 1), (2, 3), (5, 100)])
def test_each_step_is_reported_once_and_in_order_with_the_metrics_of_its_own_batch(periods):
    run = Run()
    run.train(train_steps=6, eval_every=periods[0], save_every=periods[1])
    assert [done for done, _ in run.reported] == [1, 2, 3, 4, 5, 6]
    assert [metrics["loss"] for _, metrics in run.reported] == [0, 2, 4, 6, 11, 16]


def test_it_evaluates_and_saves_at_the_periods_and_at_the_end():
    run = Run()
    run.train(train_steps=7, eval_every=2, save_every=3)
    told = {done: metrics.get("held_out_loss") for done, metrics in run.reported}
    assert told == {1: None, 2: 12, 3: None, 4: 14, 5: None, 6: 16, 7: 17}
    assert [(done, state, held) for done, state, _, held in run.saved] == [
        (3, 3, {}),
        (6, 6, {"held_out_loss": 16}),
        (7, 7, {"held_out_loss": 17}),
    ]


def test_it_saves_out_of_turn_when_that_is_due_and_once_when_both_say_so():
    asked = []
    run = Run()
    run.more_hooks = {"is_save_due": lambda done: asked.append(done) or done in (2, 3)}
    run.train(train_steps=6, save_every=3)
    assert [done for done, *_ in run.saved] == [2, 3, 6]
    assert asked == [1, 2, 3, 4, 5, 6]  # at every step, as other hosts do


def test_an_end_on_a_period_evaluates_and_saves_once():
    run = Run()
    run.train(train_steps=4, eval_every=2, save_every=4)
    assert [event for event in run.events if event.startswith(("evaluate", "save"))] == [
        "evaluate 2",
        "evaluate 4",
        "save 4",
    ]


def test_what_is_saved_is_the_cursor_of_the_next_step_and_resuming_there_goes_on():
    whole, first, second = Run(), Run(), Run()
    whole.train(train_steps=6)
    first.train(train_steps=4)
    (_, _, cursor, _) = first.saved[-1]
    assert cursor == first.stream.cursor(4)
    assert second.train(cursor=Cursor.from_json(cursor.to_json()), train_steps=6) == 6
    losses = lambda run: [(done, metrics["loss"]) for done, metrics in run.reported]  # noqa: E731
    assert losses(first) + losses(second) == losses(whole)


@pytest.mark.parametrize("train_steps", [0, 4])
def test_with_no_step_left_nothing_happens(train_steps):
    run = Run()
    cursor = run.stream.cursor(4)
    assert run.train(cursor=cursor, train_steps=train_steps, eval_every=1, save_every=1) == 4
    assert run.events == []


def test_a_skipped_step_is_warned_of_by_its_number(caplog):
    run = Run(skipped_steps=(2, 4))
    run.train(train_steps=4)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.split(":")[0] for text in warnings] == ["step 2", "step 4"]
    assert all("not finite; the parameters were kept" in text for text in warnings)
    assert [metrics["skipped"] for _, metrics in run.reported] == [0, 1, 0, 1]


def test_rates_come_every_so_many_steps():
    run = Run()
    run.train(train_steps=6, rates_every=2)
    with_rates = [done for done, metrics in run.reported if "tokens_per_second" in metrics]
    assert with_rates == [2, 4, 6]


@pytest.mark.parametrize("eval_every", [None, 2])
def test_with_the_rates_come_the_epochs_up_to_the_step(eval_every):
    run = Run()
    run.train(train_steps=5, rates_every=1, eval_every=eval_every)
    rows = [run.stream.schedule.rows_before(done) for done in range(1, 6)]
    told = [metrics["epochs"] for _, metrics in run.reported]
    assert told == [number / Rows.num_rows for number in rows]


def test_what_goes_wrong_in_the_feed_reaches_the_caller():
    run = Run(feed_fails_at=2)
    with pytest.raises(OSError, match="a disk is gone"):
        run.train()
    assert run.saved == []


@pytest.mark.parametrize("field", ["eval_every_steps", "save_every_steps", "rates_every_steps"])
def test_a_period_below_one_step_is_refused_by_its_gin_name(field):
    periods = {"eval_every_steps": None, "save_every_steps": None}
    with pytest.raises(UserError, match=f"{field.upper()}=0 must be at least 1, or None"):
        Periods(**periods | {field: 0})


def test_a_spike_is_gone_back_from_and_nothing_of_it_is_saved():
    run = Run()
    back = {"left": 1}

    def find(step, metrics):
        return Spike(step, step, "high") if step == 4 and back["left"] else None

    def rewind(spike):
        back["left"] -= 1
        run.events.append(f"rewind from {spike.found}")
        run.restart(run.stream.cursor(1))
        return 1, run.stream.cursor(1)

    run.more_hooks = {"find_spike": find, "rewind": rewind}
    assert run.train(train_steps=6, save_every=2) == 6
    assert [done for done, _ in run.reported] == [1, 2, 3, 4, 2, 3, 4, 5, 6]
    assert [done for done, *_ in run.saved] == [2, 2, 4, 6]


def test_a_run_that_is_preempted_saves_there_and_ends_without_evaluating():
    run = Run(is_preempted=lambda step: step == 3)
    assert run.train(train_steps=6, eval_every=3) == 3
    assert run.cursor.step == 3 and [done for done, *_ in run.saved] == [3]
    assert not any(event.startswith("evaluate") for event in run.events)


def test_a_preemption_is_not_forgotten_where_a_spike_is_gone_back_from_at_the_same_step():
    run = Run(
        is_preempted=lambda step: step == 3,
        find_spike=lambda step, metrics: Spike(3, 3, "high") if step == 3 else None,
        rewind=lambda spike: (1, run.stream.cursor(1)),
    )
    assert run.train(train_steps=6) == 1
    assert run.cursor.step == 1 and run.saved == []


def test_the_check_comes_at_its_period_before_the_save():
    run = Run(check=lambda step, state: run.events.append(f"check {step}"))
    run.train(train_steps=4, save_every=2, check_every=2)
    checks = [event for event in run.events if event.startswith(("check", "save"))]
    assert checks == ["check 2", "save 2", "check 4", "save 4"]
