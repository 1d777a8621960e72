"""Slots are given out in turn, so that what they cached is there for a while."""

import numpy as np

from palmscale.infer.request import Request
from palmscale.infer.running import Running
from palmscale.infer.slot_table import SlotTable


def running(number, length=4, most=3):
    return Running(number, Request(prompt=np.arange(length), max_tokens=most))


def test_the_slot_that_is_free_the_longest_is_next():
    table = SlotTable(3, most_kept=10)
    first, second = running(0), running(1)
    assert [table.occupy(first), table.occupy(second)] == [0, 1]
    table.release(first)
    assert table.free == 2 and set(table.running) == {1}
    assert [table.occupy(running(2)), table.occupy(running(3))] == [2, 0]
    table.release(first)  # again: it has none
    assert table.free == 0


def test_a_slot_keeps_its_tokens_without_the_last_of_the_prompt():
    table = SlotTable(2, most_kept=2)
    one = running(0, length=5)
    slot = table.occupy(one)
    assert table.cached[slot] == [0, 1, 2, 3]
    table.release(one)
    assert table.cached[slot] == [0, 1]
    assert table.longest(len) == slot


def test_who_has_been_asked_for_all_tokens_wants_none():
    table, one = SlotTable(1, most_kept=9), running(0)
    table.occupy(one)
    assert table.wanting() == {0: one}
    one.asked_tokens = 3
    assert table.wanting() == {}
