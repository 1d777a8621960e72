"""Metrics that are measured after training join those of their step."""

import json
import sys

from palmscale.observe.reporting import METRICS, Reporting
from palmscale.run import record as tested
from palmscale.run.record import record
from palmscale.storage.place import place


def lines(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_metrics_join_the_line_of_their_step(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n')
    record(tmp_path, 1, {"eval/a/acc": 0.5}, Reporting())
    assert lines(tmp_path) == [
        {"step": 1, "loss": 3.0, "eval/a/acc": 0.5},
        {"step": 2, "loss": 2.0},
    ]
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_without_metrics_gets_them(tmp_path):
    record(tmp_path, 0, {"eval/a/acc": 0.5}, Reporting())
    assert lines(tmp_path) == [{"step": 0, "eval/a/acc": 0.5}]


def test_a_bucket_gets_them_too(bucket):
    for step in (1, 2):
        record(f"{bucket.url}/run", step, {"eval/a/acc": step}, Reporting())
    found = (place(f"{bucket.url}/run") / METRICS).read_bytes().splitlines()
    assert list(map(json.loads, found)) == [{"step": n, "eval/a/acc": n} for n in (1.0, 2.0)]


def test_what_cannot_be_written_is_warned_of(tmp_path, monkeypatch, caplog):
    def full(path, content):
        raise OSError("no space left")

    monkeypatch.setattr(tested, "_replace", full)
    record(tmp_path, 3, {"eval/a/acc": 0.5}, Reporting())
    assert "metrics.jsonl does not get the metrics of step 3: no space left" in caplog.text
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    record(tmp_path, 3, {"eval/a/acc": 0.5}, Reporting(tensorboard=True))
    assert "the metric writers do not get the metrics of step 3" in caplog.text
