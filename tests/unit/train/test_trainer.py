"""The loop keeps one step in flight, reports each step once, and stops where it was told to."""

import contextlib
from types import SimpleNamespace

import pytest

from palmscale.checkpoint.reader import Snapshot
from palmscale.checkpoint.saving import Saving
from palmscale.cluster.job import Job
from palmscale.cluster.join import Deadlines
from palmscale.cluster.jointly import ALONE
from palmscale.data.stream import BatchSchedule, Cursor, RowStream, Shuffled
from palmscale.errors import AskedToEnd, CorruptionError, NotSaved
from palmscale.observe.throughput import Throughput
from palmscale.optim.learning_rate import LearningRate
from palmscale.train import trainer
from palmscale.train.spike import SpikePolicy
from palmscale.train.step_log import StepLog
from palmscale.train.trainer import Trainer
from palmscale.train.training import Training

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


class Feed:
    """Batches that are the number of their first row."""

    fails_at = None

    def __init__(self, stream, sharding, cursor):
        self.stream = stream
        self.seek(cursor)

    def seek(self, cursor):
        self.cursor = cursor

    def __next__(self):
        cursor = self.cursor
        if cursor.step == Feed.fails_at:
            raise OSError("a disk is gone")
        self.cursor = self.stream.advance(cursor)
        return cursor, cursor.next_row

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


class Preemption:
    """Asks the job to end after a step."""

    at_call = None

    def __init__(self):
        self.calls = 0

    def reached(self):
        self.calls += 1
        return self.calls == Preemption.at_call

    def training(self):
        return contextlib.nullcontext()


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setattr(trainer, "Feed", Feed)
    monkeypatch.setattr(Feed, "fails_at", None)
    monkeypatch.setattr(Preemption, "at_call", None)


class Run:
    """A run whose step, store, writers and evaluation only record what happens.

    `losses` are pairs of a step and its loss, once; `due` are steps at which a save is due.
    """

    def __init__(self, *, skipped_steps=(), losses=(), due=(), policy=SpikePolicy(), damaged=()):
        self.events, self.reported, self.saved, self.asked = [], [], [], []
        self.skipped_steps, self.losses, self.due = skipped_steps, dict(losses), due
        self.policy, self.damaged = policy, damaged
        self.verified, self.fails_last = {}, False
        self.every_steps = None
        self.stream = RowStream(
            rows=Shuffled(Rows(), seed=0), schedule=BatchSchedule(((0, 2), (3, 5)))
        )

    def step(self, state, batch):
        done = state.step + 1
        self.events.append(f"dispatch {done}")
        skipped = float(done in self.skipped_steps)
        usual = batch if self.policy == SpikePolicy() else 1.0
        loss = self.losses.pop(done, usual)
        metrics = {"loss": Value(loss, f"read {done}", self.events), "tokens": TOKENS}
        state = SimpleNamespace(step=done, params=done, optimizer_state=None)
        return state, metrics | {"skipped": skipped, "grad_norm": 1.0}

    # The evaluation.

    def __call__(self, state):
        self.events.append(f"evaluate {state.step}")
        return {"eval_loss": 10.0 + state.step}

    # The writers.

    def write(self, done, metrics):
        self.events.append(f"report {done}")
        self.reported.append((done, dict(metrics)))

    def truncate_from(self, step):
        self.events.append(f"truncate {step}")

    def flush(self):
        pass

    close = flush

    # The store.

    def poll(self):
        pass

    def wait(self):
        pass

    def verified_steps(self):
        return sorted(self.verified)

    def protect(self, steps):
        self.protected = steps

    def is_save_due(self, every_seconds):
        self.asked.append(self.now)
        return self.now in self.due

    @property
    def now(self):
        return int(self.events[-1].split()[1]) + 1 if self.events[-1].startswith("report") else 1

    def save(self, step, *, params, optimizer_state, cursor, meta, metrics):
        self.events.append(f"save {step}")
        self.saved.append((step, params, Cursor.from_json(cursor), dict(metrics)))
        self.verified[step] = cursor, meta

    def save_last(self, step, **state):
        if self.fails_last:
            raise NotSaved(f"the checkpoint of step {step} was not saved")
        self.save(step, **state)

    def latest_verified(self):
        return max(self.verified, default=None)

    def restore(self, step, **abstract):
        if step in self.damaged:
            del self.verified[step]
            raise CorruptionError(f"{step}/params/d/0 differs")
        cursor, meta = self.verified[step]
        optimizer = {"step": step, "state": None}
        return Snapshot(step=step, params=step, optimizer_state=optimizer, cursor=cursor, meta=meta)

    def discard_newer(self, step):
        self.verified = {at: saved for at, saved in self.verified.items() if at <= step}

    # The watchdog.

    def beat(self, where, step):
        pass

    def rest(self):
        pass

    def trainer(self, *, steps, save_every=None, eval_every=None, rates_every=10, check_every=None):
        self.every_steps = eval_every
        return Trainer(
            training=Training(
                steps=steps,
                batch_schedule=self.stream.schedule,
                z_loss=0.0,
                seed=0,
                rates_every_steps=rates_every,
                check_every_steps=check_every,
                spikes=self.policy,
            ),
            saving=Saving(every_steps=save_every),
            job=Job(peers=ALONE, watchdog=self, deadlines=Deadlines()),
            workdir=None,
            model=None,
            state_plan=SimpleNamespace(
                abstract=SimpleNamespace(step=None, params=None, optimizer_state=None)
            ),
            step=self.step,
            step_at=lambda cursor: self.step,
            stream=self.stream,
            batch_sharding=None,
            store=self,
            writers=self,
            learning_rate=LearningRate(None),
            throughput=Throughput(),
            evaluations=[self],
            initial_params=lambda: ({}, None),
            meta={},
            step_log=StepLog(None, seed=0, leads=True),
            preemption=Preemption(),
        )

    def train(self, *, cursor=None, train_steps=4, **periods):
        cursor = cursor or Cursor()
        start = SimpleNamespace(step=cursor.step, params=cursor.step, optimizer_state=None)
        if cursor.step >= train_steps:
            train_steps = max(train_steps, 1)
        state, self.cursor = self.trainer(steps=train_steps, **periods).train(start, cursor)
        self.events = [event for event in self.events if not event.startswith("truncate")]
        return state.step


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
    told = {done: metrics.get("eval_loss") for done, metrics in run.reported}
    assert told == {1: None, 2: 12, 3: None, 4: 14, 5: None, 6: 16, 7: 17}
    assert [(done, state, held) for done, state, _, held in run.saved] == [
        (3, 3, {}),
        (6, 6, {"eval_loss": 16}),
        (7, 7, {"eval_loss": 17}),
    ]


def test_it_saves_out_of_turn_when_that_is_due_and_asks_at_the_same_steps_as_other_hosts():
    run = Run(due=(10,))
    run.train(train_steps=21, save_every=8)
    assert [done for done, *_ in run.saved] == [8, 10, 16, 21]
    assert run.asked == [10, 20]


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


def test_what_goes_wrong_in_the_feed_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(Feed, "fails_at", 2)
    run = Run()
    with pytest.raises(OSError, match="a disk is gone"):
        run.train()
    assert run.saved == []


SPIKES = SpikePolicy(window_steps=2, patience_steps=1, rewind_steps=1, skip_steps=1, max_rewinds=2)


def test_a_run_goes_back_before_a_spike_and_saves_nothing_of_it():
    run = Run(losses={5: 1e6}.items(), policy=SPIKES)
    assert run.train(train_steps=7, save_every=2) == 7
    assert [done for done, _ in run.reported] == [1, 2, 3, 4, 5, 5, 6, 7]
    assert [done for done, *_ in run.saved] == [2, 4, 6, 7]
    (cursor, meta) = run.verified[7]
    assert cursor["skips"] and meta["spike_history"]["rewinds"][0]["rewound_to"] == 4


def test_a_rewind_passes_over_a_damaged_checkpoint(caplog):
    run = Run(losses={5: 1e6}.items(), policy=SPIKES, damaged=(4,))
    assert run.train(train_steps=6, save_every=2) == 6
    assert [done for done, _ in run.reported] == [1, 2, 3, 4, 5, 3, 4, 5, 6]
    assert "the checkpoint of step 4 is not used: 4/params/d/0 differs" in caplog.text


def test_more_rewinds_than_allowed_end_the_run():
    run = Run(losses=[(3, float("nan"))], policy=SpikePolicy(non_finite_steps=1, max_rewinds=0))
    with pytest.raises(RuntimeError, match="the maximum .SpikePolicy.max_rewinds."):
        run.train(train_steps=5, save_every=1)


def test_a_run_that_is_preempted_saves_there_and_ends_without_evaluating(monkeypatch):
    monkeypatch.setattr(Preemption, "at_call", 3)
    run = Run()
    assert run.train(train_steps=6, eval_every=3) == 3
    assert run.cursor.step == 3 and [done for done, *_ in run.saved] == [3]
    assert not any(event.startswith("evaluate") for event in run.events)


@pytest.mark.parametrize(
    ("at_call", "save_every", "error"),
    [(None, 2, NotSaved), (3, 2, AskedToEnd), (3, None, NotSaved)],
    ids=["at the end", "asked to end", "asked to end with nothing to resume from"],
)
def test_a_run_whose_last_state_is_not_saved_does_not_return(
    at_call, save_every, error, monkeypatch
):
    monkeypatch.setattr(Preemption, "at_call", at_call)
    run = Run()
    run.fails_last = True
    with pytest.raises(error, match="step . was not saved") as caught:
        run.train(train_steps=6, save_every=save_every)
    assert getattr(caught.value, "code", 1) == (75 if error is AskedToEnd else 1)


def test_a_preemption_is_not_forgotten_where_the_run_goes_back_at_the_same_step(monkeypatch):
    monkeypatch.setattr(Preemption, "at_call", 5)
    run = Run(losses={5: 1e6}.items(), policy=SPIKES)
    assert run.train(train_steps=9, save_every=2) == 4
    assert run.cursor.step == 4 and [done for done, *_ in run.saved] == [2, 4]


def test_the_check_comes_at_its_period_before_the_save(monkeypatch):
    run = Run()
    monkeypatch.setattr(
        trainer, "first_difference", lambda state, decide: run.events.append(f"check {state.step}")
    )
    run.train(train_steps=4, save_every=2, check_every=2)
    checks = [event for event in run.events if event.startswith(("check", "save"))]
    assert checks == ["check 2", "save 2", "check 4", "save 4"]


def test_copies_that_differ_end_the_run_with_the_step_and_the_array(monkeypatch):
    monkeypatch.setattr(trainer, "first_difference", lambda state, decide: "params/a differs")
    with pytest.raises(RuntimeError, match="step 2: params/a differs; one of the devices"):
        Run().train(train_steps=4, check_every=2)
