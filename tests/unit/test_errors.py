"""What callers may rely on of the exceptions."""

import subprocess
import sys

import pytest

from palmscale.errors import AskedToEnd, CorruptionError, NotSaved, UserError


def test_damage_is_the_users_to_mend_and_a_lost_save_is_a_fault():
    assert issubclass(CorruptionError, UserError) and issubclass(NotSaved, RuntimeError)


def test_nothing_that_retries_exceptions_retries_a_request_to_end():
    with pytest.raises(AskedToEnd, match="asked to end"):
        try:
            raise AskedToEnd("asked to end")
        except Exception:
            pass


def test_uncaught_a_request_to_end_asks_for_a_restart():
    code = "from palmscale.errors import AskedToEnd; raise AskedToEnd('asked to end')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (75, "")
