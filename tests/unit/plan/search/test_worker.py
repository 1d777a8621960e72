"""The worker as a process: a user error is one line; plans are in test_layout_search.py."""

import dataclasses
import pickle
import subprocess
import sys

from small_run import RUN

from palmscale.partition.layout import Layout
from palmscale.partition.mesh import MeshSpec
from palmscale.plan.hardware.topology import parse


def test_a_run_that_does_not_fit_the_topology_is_one_line_and_exit_code_2():
    run = dataclasses.replace(RUN, layout=Layout(mesh=MeshSpec(data=3, model=1)))
    arguments = pickle.dumps((run, parse("v5e-4"), 8))
    done = subprocess.run(
        [sys.executable, "-m", "palmscale.plan.search.worker"],
        input=pickle.dumps((sys.path, arguments)),
        capture_output=True,
    )
    assert done.returncode == 2 and done.stdout == b""
    assert b"needs 3 devices and there are 4" in done.stderr.splitlines()[-1]
