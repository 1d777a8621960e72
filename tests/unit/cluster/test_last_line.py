"""The line of a process that can no longer print one."""

import subprocess
import sys

import pytest

from palmscale.cluster.last_line import LastLine

CODE = """
import os, sys
from palmscale.cluster.last_line import LastLine
last = LastLine("first: no reason")
{act}
"""


def said(act):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(act=act)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os.abort()", "os._exit(3)"])
def test_a_process_that_is_ended_says_its_line(end):
    assert said(end) == "first: no reason\n"


def test_the_latest_line_is_said():
    assert said("last.set('b'); last.set('c %s \\\\n'); os.abort()") == "c %s \\n\n"


def test_ctrl_c_and_sigterm_are_outlived():
    act = "import time; time.sleep(0.2)\n"  # the shell has begun
    act += "for number in (1, 2, 15): os.kill(last._shell.pid, number)\ntime.sleep(0.2); os.abort()"
    assert said(act) == "first: no reason\n"


def test_a_process_that_closes_it_says_nothing():
    assert said("last.close(); os.abort()") == ""
    with LastLine("never said") as last:
        last.set("nor this")
    last.close()
