import os
import subprocess
import sys
import time

import pytest

from palmscale.data.build.processes import LocalProcesses
from palmscale.errors import UserError


def square(item, count):
    count(item)
    return item, item**2, os.getpid()


def slow(item, count):
    for _ in range(4):
        count(0)
        time.sleep(0.3)


def fail_at_two(item, count):
    if item == 2:
        raise UserError("2 is wrong")
    for _ in range(600):  # half a minute, unless it is told to stop
        count(1)
        time.sleep(0.05)


def die(item, count):
    os._exit(9)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_item_is_done_once_and_what_is_counted_adds_up(processes):
    counted = []
    results = list(LocalProcesses(processes).each(square, range(5), counted.append))
    assert sorted(result[:2] for result in results) == [(i, i**2) for i in range(5)]
    assert processes == 1 or os.getpid() not in {pid for *_, pid in results}
    assert processes == 2 or sum(counted) == 10


def test_work_that_goes_on_without_anything_to_count_is_told():
    counted = []
    list(LocalProcesses(2).each(slow, [1, 2], counted.append))
    assert len(counted) >= 2 and set(counted) == {0}


def test_nothing_to_do_starts_nothing():
    assert list(LocalProcesses(4).each(square, [], print)) == []


def test_an_error_ends_the_others_and_is_raised():
    start = time.monotonic()
    with pytest.raises(UserError, match="2 is wrong"):
        list(LocalProcesses(2).each(fail_at_two, [1, 2, 3], lambda more: None))
    assert time.monotonic() - start < 15


def test_a_process_that_dies_is_reported_with_what_to_do():
    with pytest.raises(RuntimeError, match="was killed.*start again"):
        list(LocalProcesses(2).each(die, [1, 2], lambda more: None))


SCRIPT = """
import sys
from palmscale.data.build import builder
from palmscale.data.dataset import Data
from palmscale.data.open import local_processes, open_caches
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.jsonl_parquet import Jsonl
from palmscale.data.sources.source import TextSource

print("the script runs")
builder._UNIT_BYTES = 1  # each file is a work unit
text, caches = sys.argv[1:]
{source}
data = Data(corpus=Corpus(source=source), sequence_length=16, seed=0, cache_directory=caches)
cache = open_caches(data, executor=local_processes(2))[""]
print(cache.split("train").documents + cache.split("validation").documents, "documents")
"""
OWN_SOURCE = """
import dataclasses
@dataclasses.dataclass(frozen=True)
class OwnSource(TextSource):
    field = "OwnSource.files"
    files: str
    def shards(self):
        return Jsonl(files=self.files).shards()
    def documents(self, shard):
        return Jsonl(files=self.files).documents(shard)
source = OwnSource(text + "/*.jsonl")
"""


@pytest.mark.parametrize(
    ("source", "warns"),
    [('source = Jsonl(files=text + "/*.jsonl")', False), (OWN_SOURCE, True)],
    ids=["library", "own"],
)
def test_a_script_without_a_main_guard_builds_with_several_processes(tmp_path, source, warns):
    (tmp_path / "text").mkdir()
    for number in range(4):
        (tmp_path / f"text/{number}.jsonl").write_text('{"text": "some words"}\n' * 50)
    (tmp_path / "script.py").write_text(SCRIPT.format(source=source))
    run = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "text"), str(tmp_path / "c")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.splitlines() == ["the script runs", "200 documents"], run.stderr
    assert ("OwnSource is defined in the running script" in run.stderr) == warns
