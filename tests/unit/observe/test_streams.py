"""Standard streams that are closed or full do not end a command."""

import os
import subprocess
import sys

import pytest

from palmscale.observe.streams import LossyStream

CHECK = """
import os, sys
from palmscale.observe.streams import close_standard_streams, open_standard_streams
open_standard_streams()
assert os.open("told", os.O_CREAT | os.O_WRONLY) > 2  # no file takes a standard descriptor
print("lost", file=sys.stdout)
print("lost", file=sys.stderr)
sys.stderr.flush()
close_standard_streams()
os.write(3, b"to the end")
"""


@pytest.mark.parametrize("streams", ["0<&- >&- 2>&-", "2>/dev/full"])
def test_closed_and_full_streams_are_dev_null_to_a_command(streams, tmp_path):
    (tmp_path / "check.py").write_text(CHECK)
    script = f"{sys.executable} check.py {streams}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment)
    assert (done.returncode, (tmp_path / "told").read_text()) == (0, "to the end")


def test_lines_that_were_lost_are_counted_once_there_is_room(tmp_path, monkeypatch):
    real, full = os.write, [True]

    def write(descriptor, data):
        if full[0]:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:5])

    with open(tmp_path / "log", "w", encoding="ascii", errors="backslashreplace") as file:
        monkeypatch.setattr("os.write", write)
        stream = LossyStream(file)
        assert stream.write("one\ntwo\n") == 8
        full[0] = False
        print("trois ä", file=stream)
        stream.writelines(["four\n"])
        assert not stream.isatty() and stream.encoding == "ascii"
    told = (tmp_path / "log").read_text()
    assert told == "(2 line(s) could not be written here)\ntrois \\xe4\nfour\n"
