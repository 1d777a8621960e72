"""Importing TensorFlow prints nothing, and what else is printed meanwhile is kept."""

import os
import subprocess
import sys

import pytest

from palmscale.observe.load_noise import without_load_noise

NOISE = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795750326.241903    4034 port.cc:153] oneDNN custom operations are on.
E0000 00:00:1795750326.242299    4034 cuda_dnn.cc:8579] Unable to register cuDNN factory
2026-11-27 03:22:03.123456: I tensorflow/core/platform/cpu_feature_guard.cc:227] This TensorFlow
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.
"""


def said(text):
    sys.stderr.flush()
    os.write(2, text.encode())


def test_log_lines_are_dropped_and_others_follow(capfd):
    with without_load_noise():
        said(f"my module: the port is 8080\n{NOISE}I0000 is no log line\n")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "my module: the port is 8080\nI0000 is no log line\n"


def test_a_failed_import_keeps_every_line(capfd):
    with pytest.raises(ImportError), without_load_noise():
        said(NOISE)
        raise ImportError("no symbol")
    assert capfd.readouterr().err == NOISE


def test_with_stderr_closed_there_is_nothing_to_hold():
    code = """
import os, sys
from palmscale.observe.load_noise import without_load_noise
os.close(2)
with without_load_noise():
    import json
print(json.dumps("done"))
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert done.stdout == '"done"\n'
