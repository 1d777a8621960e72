"""metrics.jsonl as an object: never less than what a resume needs, whatever fails on the way."""

import json
import threading

import pytest

from palmscale.observe import uploaded_lines
from palmscale.observe.metric_lines import JsonLines
from palmscale.observe.uploaded_lines import UploadedLines, json_lines
from palmscale.storage.place import place


@pytest.fixture
def path(bucket):
    return place(f"{bucket.url}/run/metrics.jsonl")


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_the_kind_of_place_chooses_the_writer(tmp_path):
    assert isinstance(json_lines(tmp_path / "metrics.jsonl"), JsonLines)
    assert isinstance(json_lines(place("gs://bucket/metrics.jsonl")), UploadedLines)


def test_lines_are_those_of_a_file_once_flushed_or_closed(path, tmp_path):
    for name, writer in ("object", json_lines(path)), ("file", json_lines(tmp_path / "file")):
        writer.truncate_from(1)
        writer.write(1, {"loss": 2.5, "nan": float("nan")})
        writer.flush()
        writer.write(2, {"loss": 2.0})
        if name == "object":
            assert steps(path) == [1]
        writer.close()
    assert path.read_text() == (tmp_path / "file").read_text()


def test_a_resumed_run_keeps_what_was_there_before_its_step(path):
    for first in (1, 3):
        writer = json_lines(path)
        writer.truncate_from(first)
        for step in range(first, 6):
            writer.write(step, {})
        writer.close()
        assert steps(path) == [1, 2, 3, 4, 5]
    json_lines(path).close()
    assert steps(path) == [1, 2, 3, 4, 5]


def test_lines_are_written_now_and_then_without_being_waited_for(path, monkeypatch):
    monkeypatch.setattr(uploaded_lines, "_PAUSE_SECONDS", 0.0)
    begun, go_on = threading.Event(), threading.Event()
    real = type(path).write_bytes

    def slow(self, content):
        begun.set()
        assert go_on.wait(10)
        real(self, content)

    monkeypatch.setattr(type(path), "write_bytes", slow)
    writer = json_lines(path)
    for step in range(1, 5):
        writer.write(step, {})
    assert begun.wait(10) and not path.exists()
    go_on.set()
    writer.close()
    assert steps(path) == [1, 2, 3, 4]


def test_an_outage_loses_no_line_and_is_warned_of_once(bucket, path, caplog):
    writer = json_lines(path)
    writer.write(1, {})
    with bucket.failing(status=400):
        writer.flush()
        writer.flush()
    warnings = [record.getMessage() for record in caplog.records if record.name == "palmscale"]
    assert (
        len(warnings) == 1
        and "metrics.jsonl could not be written and will be retried" in warnings[0]
    )
    writer.write(2, {})
    writer.close()
    assert steps(path) == [1, 2]


def test_what_cannot_be_read_is_never_written_over(bucket, path):
    path.write_text('{"step": 1}\n')
    writer = json_lines(path)
    with bucket.failing(status=400), pytest.raises(OSError, match="answers"):
        writer.truncate_from(2)
    writer.close()
    assert steps(path) == [1]
