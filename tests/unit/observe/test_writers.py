import json
import math
import os
import sys
import types

import pytest

from palmscale.errors import UserError
from palmscale.observe import writers
from palmscale.observe.writers import JsonLines, TensorBoard, WeightsAndBiases, Writers
from palmscale.storage.place import place


@pytest.fixture(autouse=True)
def no_service_for_children():
    """Processes that this one starts later would find its wandb service, and the runs it holds."""
    yield
    os.environ.pop("WANDB_SERVICE", None)


def lines(path):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_a_line_is_on_disk_once_written_and_is_valid_json(tmp_path):
    writer = JsonLines(tmp_path / "run/metrics.jsonl")
    writer.write(1, {"loss": 2.5, "nan": math.nan, "inf": -math.inf})
    assert lines(tmp_path / "run/metrics.jsonl") == [
        {"step": 1, "loss": 2.5, "nan": None, "inf": None}
    ]


def test_each_step_stands_once_after_a_kill_and_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for attempt, first in enumerate([1, 3]):
        writer = JsonLines(path)
        writer.truncate_from(first)
        for step in range(first, 6):
            writer.write(step, {"attempt": attempt})
    assert [(line["step"], line["attempt"]) for line in lines(path)] == [
        (1, 0),
        (2, 0),
        (3, 1),
        (4, 1),
        (5, 1),
    ]
    writer.truncate_from(2)
    writer.write(2, {})
    writer.close()
    assert [line["step"] for line in lines(path)] == [1, 2]


def test_a_torn_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    JsonLines(path).write(2, {"loss": 1})
    assert lines(path) == [{"step": 1}, {"step": 2, "loss": 1.0}]


class Failing:
    calls = 0

    def write(self, step, metrics):
        self.calls += 1
        raise OSError("disk full")

    def truncate_from(self, step):
        pass

    def close(self):
        self.calls += 1


def test_a_failing_writer_warns_once_and_the_others_go_on(tmp_path, caplog):
    failing, path = Failing(), tmp_path / "metrics.jsonl"
    writers = Writers([failing, JsonLines(path)])
    writers.truncate_from(1)
    for step in 1, 2, 3:
        writers.write(step, {"loss": 1.0})
    writers.close()
    assert failing.calls == 1
    assert [record.message for record in caplog.records] == [
        "Failing failed and is no longer used: OSError: disk full"
    ]
    assert len(lines(path)) == 3


def test_tensorboard_reads_the_scalars_and_leaves_out_the_killed_attempt(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for attempt, first in enumerate([1, 3]):
        writer = TensorBoard(tmp_path)
        if attempt:
            writer.truncate_from(first)
        for step in range(first, 6):
            writer.write(step, {"loss": attempt + step / 10, "bad": math.nan})
        writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
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
