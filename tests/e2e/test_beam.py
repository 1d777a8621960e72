"""The build as Apache Beam pipelines, in an environment of Beam's own, gives the same rows."""

import subprocess
import sys

import pytest
import tiny_run

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment made as docs/data.md says."""
    folder = tmp_path_factory.mktemp("beam")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/pip", "install", "-q"]
    subprocess.run(
        [*pip, "-r", "requirements-beam.txt"], check=True, cwd=tiny_run.CHECKOUT, timeout=900
    )
    subprocess.run([*pip, "--no-deps", "-e", "."], check=True, cwd=tiny_run.CHECKOUT, timeout=300)
    return folder / "bin/python"


@pytest.mark.parametrize(
    "flags", ["", "--direct_num_workers=2 --direct_running_mode=multi_processing"]
)
def test_beam_builds_the_same_bytes(python, flags, text, tmp_path):
    def built(interpreter, name, *more):
        changes = {"TEXT_FILES": f"{text}/*.txt", "CACHE_DIRECTORY": tmp_path / name}
        command = ["data", "build", "--gin_file=configs/runs/quickstart.gin"]
        command += tiny_run.bindings(tiny_run.TINY | changes)
        run = [interpreter, "-m", "palmscale", *command, *more]
        subprocess.run(list(map(str, run)), check=True, cwd=tiny_run.CHECKOUT, timeout=300)
        (folder,) = [path for path in (tmp_path / name).iterdir() if path.is_dir()]
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    assert built(sys.executable, "plain") == built(python, "beam", f"--beam={flags}")
