"""Whatever a checkpoint's descriptions hold, opening it works or ends with one line."""

import collections
import random
import resource

import pytest
from fuzzed_checkpoints import copied, open_one


def fuzz(folder, seed, count):
    workdir, ended = copied(folder), collections.Counter()
    for number in range(count):
        try:
            ended.update(open_one(workdir, random.Random(f"{seed}:{number}")).split(". "))
        except BaseException:
            print(f"case {seed}:{number}")
            raise
    return ended


def test_a_changed_description_is_refused_in_one_line(tmp_path):
    ended = fuzz(tmp_path, 0, 60)
    assert sum(count for how, count in ended.items() if how.endswith("refused")) > 20


@pytest.mark.long
def test_ten_thousand_changed_descriptions_are_refused_in_one_line(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ended = fuzz(tmp_path, 1, 10_000)
    print(dict(ended))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (2 << 20)  # KiB
