import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).parents[3] / "benchmarks/train_step.py"


def test_it_finds_all_that_it_imports():
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--palm_flax" in done.stdout, done.stderr
