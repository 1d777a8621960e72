"""Files of PyTorch are read and written with torch, which lies apart from this environment."""

import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long
TESTS = pathlib.Path(__file__).parents[1]
PROGRAM = TESTS / "support/programs/torch_files.py"


def test_state_dicts_come_back_and_pickles_that_want_more_are_refused(tmp_path):
    # The folder of an installed torch, or one is made; it must not change this environment.
    packages = os.environ.get("TORCH_PACKAGES")
    if packages is None:
        packages = tmp_path / "packages"
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", packages]
        subprocess.run([*command, "torch==2.13.0"], check=True)
    (tmp_path / "files").mkdir()
    path = os.pathsep.join(map(str, (TESTS.parent, packages)))
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path / "files"],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("refused:") == 8
