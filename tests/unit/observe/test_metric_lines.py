"""metrics.jsonl on a disk: one line per step, and a hole that is told where there is one."""

import json
import math

import pytest

from palmscale.observe.metric_lines import JsonLines, json_line, readable_lines, with_metrics


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


@pytest.mark.parametrize(
    "damage",
    [
        b"\0" * 40,
        b'\xff\xfe{"step": 3}',
        b'{"step": 3, "lo',
        b"[3]",
        b'{"loss": 1}',
        b'{"step": "3"}',
    ],
)
def test_a_damaged_line_costs_its_step_and_a_warning(damage, tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step, "loss": 0.1 * step}).encode() for step in range(1, 6)]
    path.write_bytes(b"\n".join([*good[:2], damage, *good[3:], b""]))
    writer = JsonLines(path)
    writer.truncate_from(6)
    writer.write(6, {"loss": 1.0})
    assert [line["step"] for line in lines(path)] == [1, 2, 4, 5, 6]
    told = [line.get("missing_steps") for line in lines(path)]
    assert told == [None, None, [3, 3], None, None]
    assert lines(path)[3] == json.loads(good[4])
    assert "1 damaged line(s) were dropped" in caplog.text


def full(monkeypatch, room):
    """Makes the disk take only so many bytes."""

    class Full:
        def __init__(self, file):
            self._file = file

        def write(self, data):
            nonlocal room
            if not room:
                raise OSError(28, "No space left on device")
            taken = self._file.write(data[:room])
            room -= taken
            return taken

        def __getattr__(self, name):
            return getattr(self._file, name)

    monkeypatch.setattr(
        "palmscale.observe.metric_lines.open", lambda *a, **k: Full(open(*a, **k)), raising=False
    )


def test_a_full_disk_costs_lines_and_the_next_one_names_them(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path)
    with monkeypatch.context() as patched:
        full(patched, room=len('{"step": 1}\n') * 8 + 5)
        for step in range(1, 13):
            if step <= 8:
                writer.write(step, {})
                continue
            with pytest.raises(OSError, match="No space left"):
                writer.write(step, {})
            assert path.read_bytes().endswith(b'{"step": 8}\n')
    writer.write(13, {})
    writer.write(14, {})
    assert lines(path)[8:] == [{"step": 13, "missing_steps": [9, 12]}, {"step": 14}]


def test_a_folder_that_is_gone_is_not_made_again_and_its_return_is_noticed(tmp_path):
    path = tmp_path / "run/metrics.jsonl"
    writer = JsonLines(path)
    writer.write(1, {})
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        writer.write(2, {})
    assert not (tmp_path / "run").exists()
    (tmp_path / "moved").rename(tmp_path / "run")
    writer.write(3, {})
    assert lines(path) == [{"step": 1}, {"step": 3, "missing_steps": [2, 2]}]


def test_metrics_of_a_step_join_its_line_or_become_one_in_order():
    content = b"".join(json_line(step, {"loss": step}, after=step - 1) for step in (1, 2, 5))
    for step, steps in ((2, [1, 2, 5]), (0, [0, 1, 2, 5]), (4, [1, 2, 4, 5]), (9, [1, 2, 5, 9])):
        found = list(readable_lines(with_metrics(content + b"{broken", step, {"x": math.nan})))
        assert [line["step"] for line in found] == steps
        assert [line["step"] for line in found if "x" in line] == [step]
        (line,) = [line for line in found if line["step"] == step]
        assert line["x"] is None and line.get("loss") == (2 if step == 2 else None)
    assert list(readable_lines(with_metrics(b"", 0, {"x": 1}))) == [{"step": 0, "x": 1.0}]
