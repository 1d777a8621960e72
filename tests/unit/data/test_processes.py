import os
import time

import pytest

from palmscale.data.processes import LocalProcesses
from palmscale.errors import UserError


def square(item, count):
    count(item)
    return item, item**2, os.getpid()


def fail_at_two(item, count):
    if item == 2:
        raise UserError("2 is wrong")
    for _ in range(600):  # half a minute, unless it is told to stop
        count(1)
        time.sleep(0.05)


def die(item, count):
    os._exit(9)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_item_is_done_once_and_what_is_counted_adds_up(processes):
    counted = []
    results = list(LocalProcesses(processes).each(square, range(5), counted.append))
    assert sorted(result[:2] for result in results) == [(i, i**2) for i in range(5)]
    assert processes == 1 or os.getpid() not in {pid for *_, pid in results}
    assert processes == 2 or sum(counted) == 10


def test_nothing_to_do_starts_nothing():
    assert list(LocalProcesses(4).each(square, [], print)) == []


def test_an_error_ends_the_others_and_is_raised():
    start = time.monotonic()
    with pytest.raises(UserError, match="2 is wrong"):
        list(LocalProcesses(2).each(fail_at_two, [1, 2, 3], lambda more: None))
    assert time.monotonic() - start < 15


def test_a_process_that_dies_is_reported_with_what_to_do():
    with pytest.raises(RuntimeError, match="was killed.*same command again"):
        list(LocalProcesses(2).each(die, [1, 2], lambda more: None))
