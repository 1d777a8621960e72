import math
import os
import sys
import types

import pytest

from palmscale.errors import UserError
from palmscale.observe import writers
from palmscale.observe.metric_lines import JsonLines
from palmscale.observe.writers import TensorBoard, WeightsAndBiases, Writers
from palmscale.storage.place import place


@pytest.fixture(autouse=True)
def no_service_for_children():
    """Processes that this one starts later would find its wandb service, and the runs it holds."""
    yield
    os.environ.pop("WANDB_SERVICE", None)


class Failing:
    """A writer whose first writes fail, and take some seconds."""

    def __init__(self, failures, seconds, clock):
        self.failures, self.seconds, self.clock = failures, seconds, clock
        self.tried, self.written = [], []

    def write(self, step, metrics):
        self.tried.append(step)
        if len(self.tried) <= self.failures:
            self.clock.now += self.seconds
            raise OSError("disk full")
        self.written.append(step)

    def truncate_from(self, step):
        pass

    def close(self):
        raise OSError("disk full")


def written(steps, failures, seconds, others=()):
    clock = types.SimpleNamespace(now=0.0)
    failing = Failing(failures, seconds, clock)
    writers = Writers([failing, *others], clock=lambda: clock.now)
    writers.truncate_from(1)
    for step in range(1, steps + 1):
        clock.now += 1
        writers.write(step, {"loss": 1.0})
    writers.close()
    return failing


def test_a_failing_writer_warns_once_and_it_and_the_others_go_on(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    failing = written(6, failures=2, seconds=0.001, others=[JsonLines(path)])
    assert failing.tried == [1, 2, 3, 4, 5, 6] and failing.written == [3, 4, 5, 6]
    assert [record.message for record in caplog.records] == [
        "Failing failed and will be tried again: OSError: disk full",
        "Failing is written again, from step 3 on.",
        "Failing failed and will be tried again: OSError: disk full",  # at its end
    ]
    assert len(path.read_text().splitlines()) == 6


def test_a_writer_that_takes_long_to_fail_is_tried_seldom():
    failing = written(60, failures=2, seconds=2.0)
    assert failing.tried[:3] == [1, 21, 41] and failing.written[0] == 41


def test_tensorboard_reads_the_scalars_and_leaves_out_the_killed_attempt(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for attempt, first in enumerate([1, 3]):
        writer = TensorBoard(tmp_path)
        if attempt:
            writer.truncate_from(first)
        for step in range(first, 6):
            time_of_step = 1.7e9 + attempt + step
            metrics = {"loss": attempt + step / 10, "bad": math.nan, "learning_rate": 1 / step}
            writer.write(step, metrics | {"wall_time": time_of_step})
        writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.wall_time for event in events.Scalars("learning_rate")] == [
        1.7e9 + 1,
        1.7e9 + 2,
        1.7e9 + 4,
        1.7e9 + 5,
        1.7e9 + 6,
    ]
    assert "wall_time" not in events.Tags()["scalars"]
    assert [(event.step, round(event.value, 4)) for event in events.Scalars("loss")] == [
        (1, 0.1),
        (2, 0.2),
        (3, 1.3),
        (4, 1.4),
        (5, 1.5),
    ]


def test_weights_and_biases_resumes_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for step in 1, 2:
        writer = WeightsAndBiases(tmp_path, project="palmscale", name="run", mode="offline")
        writer.write(step, {"loss": 1.0})
        writer.close()
    name = (tmp_path / "wandb_run_id").read_text()
    found = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(found) == 2 and all(name in path.name for path in found)
    assert list(found[0].glob("*.wandb"))


def test_an_online_run_is_opened_at_the_first_write_with_its_address_and_may_be_resumed(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    opened = []

    class Run:
        url = "https://wandb.ai/me/p/runs/1"

        def __getattr__(self, name):
            return lambda *_, **__: None

    wandb = types.SimpleNamespace(
        Settings=lambda **_: None, init=lambda **given: opened.append(given) or Run()
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for _ in range(2):
        writer = WeightsAndBiases(tmp_path, project="p", name="n", mode="online")
        assert not opened or len(opened) == 1
        writer.write(1, {"loss": 1.0})
    assert [(run["id"], run["resume"], run["project"], run["name"]) for run in opened] == [
        ((tmp_path / "wandb_run_id").read_text(), "allow", "p", "n")
    ] * 2
    assert caplog.messages == ["Weights & Biases: https://wandb.ai/me/p/runs/1"] * 2


def test_a_run_that_its_killed_process_still_holds_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "_WANDB_PAUSE_SECONDS", 0)
    answers = [RuntimeError("run ID 1 is in use")] * 2 + [types.SimpleNamespace()]
    answers[-1].define_metric = answers[-1].log = lambda *_, **__: None

    def init(**_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    wandb = types.SimpleNamespace(Settings=lambda **_: None, init=init)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    WeightsAndBiases(tmp_path, project="p").write(1, {"loss": 1.0})
    assert answers == []
    answers[:] = [RuntimeError("no such project")]
    with pytest.raises(RuntimeError, match="no such project"):
        WeightsAndBiases(tmp_path, project="p").write(1, {"loss": 1.0})


def test_an_unknown_mode_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no mode 'on'"):
        WeightsAndBiases(tmp_path, project="p", mode="on")


@pytest.mark.parametrize(
    ("package", "extra", "make"),
    [
        ("tensorboardX", "tensorboard", lambda path: TensorBoard(path)),
        ("wandb", "wandb", lambda path: WeightsAndBiases(path, project="p")),
    ],
)
def test_a_missing_package_says_what_to_install(package, extra, make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'palmscale\[{extra}\]'"):
        make(tmp_path)


def test_a_run_in_a_bucket_keeps_its_wandb_id_there_and_the_files_here(bucket, monkeypatch):
    opened = []
    run = types.SimpleNamespace(define_metric=lambda *_, **__: None, log=lambda _: None)
    wandb = types.SimpleNamespace(
        Settings=lambda **_: None, init=lambda **fields: opened.append(fields) or run
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for _ in range(2):
        WeightsAndBiases(place(f"{bucket.url}/run"), project="p").write(1, {"loss": 1.0})
    assert bucket.names("run") == ["wandb_run_id"]
    assert opened[0]["id"] == opened[1]["id"] and not opened[0]["dir"].startswith("gs:")
    with pytest.raises(UserError, match="cannot be offline with the workdir gs://"):
        WeightsAndBiases(place(f"{bucket.url}/run"), project="p", mode="offline")
