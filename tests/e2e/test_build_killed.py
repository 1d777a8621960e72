"""Builds of a cache by real processes, killed with -9 at random moments and run again."""

import json
import os
import random
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import tiny_run

SCRIPT = """
import sys
from palmscale.data.build.builder import build_cache
from palmscale.data.build.processes import LocalProcesses
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.jsonl_parquet import Jsonl
from palmscale.data.vocabulary import ByteVocabulary

if __name__ == "__main__":
    text, target, processes = sys.argv[1:]
    build_cache(corpus=Corpus(source=Jsonl(files=f"{text}/*.jsonl")), vocabulary=ByteVocabulary(),
                directory=target, sequence_length=128, seed=0,
                executor=LocalProcesses(int(processes)))
"""


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """Starts a build of 50 MB, two thirds of it the same text again, into a folder."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "text").mkdir()
    (folder / "build.py").write_text(SCRIPT)
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*/*.py"))
    texts = [path.read_text(errors="replace") for path in paths if "test" not in path.parts[-2]]
    for number in range(12):
        with open(folder / f"text/{number:02}.jsonl", "w") as file:
            size = 0
            for i, text in enumerate(texts[number % 4 :: 4] * 9):
                if size < 4_000_000:
                    file.write(json.dumps({"text": f"# {i}\n{text}"}) + "\n")
                    size += len(text)

    def start(target, processes):
        command = [sys.executable, folder / "build.py", folder / "text", target, str(processes)]
        return subprocess.Popen(
            list(map(str, command)), cwd=tiny_run.CHECKOUT, start_new_session=True
        )

    return start


@pytest.mark.parametrize(
    "kills", [3, pytest.param(10, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_a_build_killed_at_random_moments_ends_with_the_same_bytes(builder, tmp_path, kills):
    began = time.monotonic()
    assert builder(tmp_path / "whole", 1).wait(timeout=300) == 0
    seconds = time.monotonic() - began
    chance, killed = random.Random(kills), 0
    for _ in range(20 * kills):
        if killed == kills:
            break
        build = builder(tmp_path / "killed", chance.choice([1, 2]))
        time.sleep(chance.uniform(0.2, seconds))
        if build.poll() is None:
            os.killpg(build.pid, signal.SIGKILL)
        killed += build.wait() == -signal.SIGKILL
        if (tmp_path / "killed").exists():  # it was quicker: once more
            (tmp_path / "killed").rename(tmp_path / f"done{killed}-{time.monotonic_ns()}")
    assert killed == kills
    assert builder(tmp_path / "killed", 2).wait(timeout=300) == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    for target in (tmp_path / "killed", *tmp_path.glob("done*")):
        assert {path.name: path.read_bytes() for path in target.iterdir()} == whole
    assert len(whole) > 2
