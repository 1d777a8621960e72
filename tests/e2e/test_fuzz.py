"""Mutated gin files, settings, command lines, text and rows: success, or one line and code 2."""

import pathlib
import sys

import forked
import pytest

SUPPORT = pathlib.Path(__file__).parents[1] / "support"
LONG = {  # 10,000 in all
    "gin_file": 2500,
    "settings": 2500,
    "command_line": 2500,
    "data_file": 1500,
    "row_cache": 500,
    "vocabulary": 500,
}


def assert_no_fault(first, counts):
    code = f"""
import sys
sys.path += [{str(SUPPORT / "programs")!r}, {str(SUPPORT / "text")!r}]
import fuzzed
for kind, count in {counts!r}.items():
    fuzzed.report(kind, {first}, count)
"""
    done = forked.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=14_400)
    wanted = [f"{kind}: {count} mutations, 0 faults" for kind, count in counts.items()]
    assert done.stdout.splitlines() == wanted, done.stdout[-4000:] + done.stderr[-4000:]


def test_a_mistake_is_one_line_wherever_it_stands():
    counts = {"gin_file": 12, "settings": 12, "command_line": 40, "data_file": 10}
    assert_no_fault(0, counts | {"row_cache": 10, "vocabulary": 10})


@pytest.mark.long
@pytest.mark.parametrize("kind", LONG)
def test_ten_thousand_mistakes_are_one_line_each(kind):
    assert_no_fault(10_000, {kind: LONG[kind]})
