"""Runs part of a test file in a process with eight simulated devices, once for all its tests."""

import inspect
import json
import os
import pathlib
import sys

import forked

_SCRIPT = """
import json, sys
sys.path[:0] = {path!r}
import {module}
arguments = json.loads({arguments!r})
print("facts:" + json.dumps({module}.{function}(*arguments)))
"""


def facts_on_eight_devices(function, *arguments):
    """Returns what a function of a test file returns there, as JSON has it."""
    file = pathlib.Path(inspect.getfile(function))
    script = _SCRIPT.format(
        path=[str(file.parent), *sys.path],
        module=file.stem,
        function=function.__name__,
        arguments=json.dumps(arguments),
    )
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    done = forked.run(
        [sys.executable, "-c", script],
        env=os.environ | {"XLA_FLAGS": flags},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("facts:"))
    return json.loads(line.removeprefix("facts:"))
