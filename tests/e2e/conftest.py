"""One small corpus, one row cache and one finished run, which the tests of this folder share."""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import tiny_run


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A folder of text: palmscale's own sources, 0.2 MB."""
    folder = tmp_path_factory.mktemp("text")
    for path in sorted((tiny_run.CHECKOUT / "palmscale").glob("*/*.py")):
        shutil.copy(path, folder / f"{path.parent.name}_{path.stem}.txt")
    return folder


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    """CACHE_DIRECTORY of the tiny runs."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="session")
def tiny(text, caches):
    """The arguments of a tiny run on 4 x 2 simulated devices, with some gin names changed."""

    def arguments(workdir, **changes):
        values = tiny_run.TINY | {"TEXT_FILES": f"{text}/*.txt", "CACHE_DIRECTORY": caches}
        command = ["train", "--gin_file=configs/runs/quickstart.gin", f"--workdir={workdir}"]
        return [*command, *tiny_run.bindings(values | changes)]

    return arguments


@pytest.fixture(scope="session")
def undisturbed(tiny, tmp_path_factory):
    """The workdir of a run that nobody disturbed, and the folder of the cache that it built."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    said = tiny_run.run(*tiny(workdir), f"--step_log={workdir.with_name('witness')}").stderr
    return workdir, pathlib.Path(re.search(r"^Rows of .*, in (.*)\.$", said, re.MULTILINE)[1])


@pytest.fixture(scope="session")
def finished(undisturbed):
    """The workdir of a run that nobody disturbed; it built the cache. Not to be written to."""
    return undisturbed[0]


@pytest.fixture(scope="session")
def witness(finished):
    """Batch and key of each step of the finished run, as --step_log noted them."""
    return tiny_run.witnessed(finished.with_name("witness"))


@pytest.fixture(scope="session")
def row_cache(undisturbed):
    """The folder of the cache that the finished run built, among those of other tests."""
    return undisturbed[1]


@pytest.fixture
def flip():
    """Flips one bit of a file, in its middle by default."""

    def flip(path, place=None):
        content = bytearray(path.read_bytes())
        content[len(content) // 2 if place is None else place] ^= 1
        path.write_bytes(bytes(content))

    return flip


@pytest.fixture
def small_disk():
    """Makes a folder a small disk of its own: room for several checkpoints of the tiny run."""
    with contextlib.ExitStack() as mounted:

        def make(folder, size_bytes=4 << 20):
            folder.mkdir(parents=True, exist_ok=True)
            if sys.platform != "linux" or os.getuid() != 0:
                pytest.skip("needs root on Linux, to mount a small disk")
            command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                pytest.skip(f"needs root on Linux, to mount a small disk: {done.stderr}")
            mounted.callback(subprocess.run, ["umount", str(folder)], check=True)
            return folder

        yield make
