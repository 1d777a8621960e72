"""What an exception means to whoever started the command."""

import jax
import pytest

from palmscale.errors import AskedToEnd, CorruptionError, HostLost, NotSaved, UserError
from palmscale.exit_codes import exit_code_and_line, is_lost_host, one_line


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("DIM = 3 is odd\nmore"), 2, "DIM = 3 is odd"),
        (CorruptionError("a.bin is damaged"), 2, "a.bin is damaged"),
        (HostLost("process 3 did not come"), 75, "process 3 did not come"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("saved step 3"), 130, "interrupted: saved step 3"),
        (AskedToEnd("asked to end"), 75, "asked to end"),
        (NotSaved("step 3 was not saved"), 1, "step 3 was not saved"),
        (OSError("gone"), 1, "OSError: gone"),
        (OSError(5, "Input/output error", "a"), 1, "OSError: [Errno 5] Input/output error: 'a'"),
        (OSError(36, "File name too long", "a" * 9), 2, "File name too long: aaaaaaaaa; name"),
        (PermissionError(13, "Permission denied", "a"), 2, "Permission denied: a; name another"),
        (PermissionError(13, "Permission denied"), 1, "PermissionError: [Errno 13] Permission"),
    ],
)
def test_each_kind_has_its_code_and_its_line(error, code, line):
    found, told = exit_code_and_line(error)
    assert found == code and told.startswith(line)


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("FAILED_PRECONDITION: Gloo AllReduce failed: [..] Connection closed by peer", True),
        ("UNAVAILABLE: failed to connect to all addresses", True),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes", False),
    ],
)
def test_what_the_runtime_says_of_another_host_is_told_from_its_own_failures(text, lost):
    assert is_lost_host(jax.errors.JaxRuntimeError(text)) == lost
    assert not is_lost_host(RuntimeError(text))


def test_no_message_is_a_line_too():
    assert one_line("") == "no message"
