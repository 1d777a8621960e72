"""What one process finds or lacks, all hear: values, and errors with who met them."""

import concurrent.futures

import board
import pytest

from palmscale.cluster import jointly as jointly_module
from palmscale.cluster.jointly import ALONE, jointly, led, shared_text
from palmscale.errors import CorruptionError, HostLost, UserError


def each(count, do):
    """What `do(peers)` returns or raises in each of so many processes."""

    def one(peers):
        try:
            return do(peers)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, board.peers(count)))


def test_process_0_works_for_all():
    assert each(3, lambda peers: led(peers, "x", lambda: [peers.index, None], 5)) == [[0, None]] * 3


def test_process_0_merges_what_all_worked_out():
    found = each(3, lambda peers: jointly(peers, "x", lambda: peers.index + 1, sum, 5))
    assert found == [6] * 3


@pytest.mark.parametrize(
    ("raised", "heard"),
    [(CorruptionError, CorruptionError), (UserError, UserError), (OSError, RuntimeError)],
)
def test_an_error_of_one_is_raised_by_all_and_names_it(raised, heard):
    def work(peers):
        if peers.index == 1:
            raise raised("the file d/3 is missing")

    errors = each(3, lambda peers: jointly(peers, "x", lambda: work(peers), len, 5))
    assert [type(error) for error in errors] == [heard] * 3
    assert {str(error) for error in errors} == {"the file d/3 is missing (process 1 on b)"}


def test_an_error_of_the_merge_is_raised_by_all():
    def full(values):
        raise OSError(28, "No space left on device")

    for error in each(2, lambda peers: jointly(peers, "x", lambda: 1, full, 5)):
        assert "No space left on device (process 0 on a)" in str(error)


def test_who_does_not_come_is_lost():
    def come(peers):
        return None if peers.index else led(peers, "x", lambda: 1, 0.2)

    assert isinstance(each(2, come)[0], HostLost)


def test_a_process_alone_raises_its_own_errors():
    def fail():
        raise PermissionError(13, "no")

    assert led(ALONE, "x", lambda: 7, 0) == 7
    with pytest.raises(PermissionError):
        led(ALONE, "x", fail, 0)


def test_a_text_of_any_length_is_the_same_for_all(monkeypatch):
    monkeypatch.setattr(jointly_module, "_MESSAGE_CHARACTERS", 4)
    for text in ("", "four", "longer text"):
        assert (
            each(3, lambda peers, text=text: shared_text(peers, "x", lambda: text, 5)) == [text] * 3
        )
    assert shared_text(ALONE, "x", lambda: "alone", 5) == "alone"


def test_what_process_0_cannot_read_all_hear():
    def read():
        raise UserError("no such file")

    for error in each(2, lambda peers: shared_text(peers, "x", read, 5)):
        assert isinstance(error, UserError) and "no such file" in str(error)
