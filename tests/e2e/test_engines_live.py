"""transformers and llama.cpp run our exports, in an environment of their own.

ENGINES_PYTHON names the Python of one; without it, one is made. The results are compared as the
stored ones are, in tests/parity/test_engines.py.
"""

import os
import pathlib
import subprocess
import sys

import pytest
from other_python import python_with
from source_tree import CHECKOUT

PARITY = CHECKOUT / "tests/parity"
SCRIPT = PARITY / "make_engine_goldens.py"
PACKAGES = ["torch==2.13.0", "transformers==5.24.0", "xllamacpp==2026.10.11549", "gguf==0.19.0"]

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with the engines."""
    return python_with(PACKAGES, "ENGINES_PYTHON", tmp_path_factory.mktemp("engines") / "env")


def run(program, *arguments, **environ):
    line = [program, SCRIPT, *map(str, arguments)]
    given = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environ
    done = subprocess.run(line, capture_output=True, text=True, env=given)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_engines_give_our_exports_our_logits_and_ids(python, tmp_path):
    exports, results = tmp_path / "exports", [tmp_path / f"engines.{s}" for s in ("npz", "json")]
    exports.mkdir()
    run(sys.executable, "write", exports, PYTHONPATH=str(CHECKOUT))
    run(python, "run", exports, *results)
    # The tests of the stored results, on these.
    tests = PARITY / "test_engines.py"
    environ = os.environ | {"ENGINES_RESULTS": str(tmp_path)}
    line = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(line, cwd=CHECKOUT, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stdout[-4000:]


WITH_THE_ENGINES = """
import pathlib, sys
sys.path[:0] = {support!r}
import engine_exports
from palmscale.interop import gguf_file, hf
for dtype in ("float32", "q4_0"):
    outgoing, path = engine_exports.outgoing("rms_wide", dtype), pathlib.Path(f"{{dtype}}.gguf")
    gguf_file.write(outgoing, path)
    print(gguf_file.check(outgoing, path))
for dtype in ("float32", "bfloat16"):
    outgoing, path = engine_exports.outgoing("layer_wide", dtype), pathlib.Path(dtype)
    hf.write(outgoing, path)
    print(hf.check(outgoing, path))
"""


def test_the_check_runs_the_engines_that_are_installed_beside_palmscale(python, tmp_path):
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    theirs = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True)
    ours = pathlib.Path(pytest.__file__).parents[1]
    support = [str(CHECKOUT / "tests/support/programs")]
    path = os.pathsep.join([str(CHECKOUT), str(ours), theirs.stdout.strip()])
    done = subprocess.run(
        [sys.executable, "-c", WITH_THE_ENGINES.format(support=support)],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    said = [line for line in done.stdout.splitlines() if line.startswith("The logits of")]
    assert [("llama.cpp itself ran" in s, "transformers itself ran" in s) for s in said] == [
        (True, False), (True, False), (False, True), (False, True)
    ]  # fmt: skip
