"""Runs part of a test file in a process with eight simulated devices, once for all its tests."""

import inspect
import json
import os
import pathlib
import subprocess
import sys

import jax

# Tiny programs run as fast without optimizations, and compile in a quarter of the time.
_FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
if jax.__version_info__ < (0, 11):  # later versions end at the name of this flag
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
_SCRIPT = """
import json, sys
sys.path[:0] = {folders!r}
import {module}
arguments = json.loads({arguments!r})
print("facts:" + json.dumps({module}.{function}(*arguments)))
"""


def facts_on_eight_devices(function, *arguments):
    """Returns what a function of a test file returns there, as JSON has it."""
    file = pathlib.Path(inspect.getfile(function))
    script = _SCRIPT.format(
        folders=[str(file.parent), os.path.dirname(__file__)],
        module=file.stem,
        function=function.__name__,
        arguments=json.dumps(arguments),
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"XLA_FLAGS": " ".join(_FLAGS)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("facts:"))
    return json.loads(line.removeprefix("facts:"))
