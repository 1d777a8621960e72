"""The figures of docs/performance.md are those that the benchmarks stored."""

import json
import pathlib
import re
import sys

import pytest

CHECKOUT = pathlib.Path(__file__).parents[3]
sys.path.insert(0, str(CHECKOUT / "benchmarks"))
import page  # noqa: E402


def test_the_pages_blocks_are_what_the_stored_results_say():
    text = page.PAGE.read_text()
    assert [name for _, name, _, _ in page.BLOCK.findall(text)] == list(page.BLOCKS)
    assert page.written(text) == text, "run: python benchmarks/page.py"


def test_every_table_of_the_page_is_written_by_a_benchmark():
    outside = page.BLOCK.sub("", page.PAGE.read_text())
    assert not re.findall(r"^\|.*", outside, re.MULTILINE)


def test_a_result_that_is_stored_changes_its_block_and_nothing_else(tmp_path, monkeypatch):
    for path in page.RESULTS.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "page.md").write_text(page.PAGE.read_text())
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    result = json.loads((tmp_path / "quickstart.json").read_text())
    page.store("quickstart", result | {"gzip_bits_per_byte": 9.875})
    before, after = (path.read_text().splitlines() for path in (
        CHECKOUT / "docs/performance.md", tmp_path / "page.md"
    ))  # fmt: skip
    changed = [line for line in after if line not in before]
    assert len(before) == len(after)
    assert [line for line in changed if "gzip -9 reaches 9.88 bits per byte" in line]
    assert json.loads((tmp_path / "quickstart.json").read_text())["gzip_bits_per_byte"] == 9.875


@pytest.mark.parametrize("name", page.BLOCKS)
def test_results_say_when_where_and_with_which_versions(name):
    result = json.loads((page.RESULTS / f"{name}.json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", result["date"])
    assert result["machine"] and "jax" in result["versions"]


def test_speedups_are_medians_over_rounds_with_their_ends():
    steps = [
        {"name": "theirs", "seconds": [2.0, 4.0, 3.0], "cpu_seconds": [4.0, 4.0, 4.0]},
        {"name": "ours", "seconds": [1.0, 1.0, 1.0], "cpu_seconds": [2.0, 1.0, 4.0]},
    ]
    text = page.train_step({"date": "d", "machine": "m", "versions": "v", "steps": steps})
    assert text.splitlines()[-2:] == [
        "| theirs | 3000 | 4.00 | 1 | 1 |",
        "| ours | 1000 | 2.00 | 3.00 [2.00, 4.00] | 2.00 |",
    ]
