import pytest

from palmscale.cli import tables


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.00 KiB"),
        (int(1.5 * 2**30), "1.50 GiB"),
        (5 * 2**50, "5,120.00 TiB"),
    ],
)
def test_bytes_are_in_the_unit_that_fits(num_bytes, text):
    assert tables.size(num_bytes) == text


def test_a_piped_table_has_no_colors_and_takes_no_markup(capsys):
    tables.print_table(("name", "n"), [["a[red]b", "10"], ["c", "5"]], right=(1,))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "a[red]b   10" in printed and "c          5" in printed


def test_a_piped_fact_stays_one_line(capsys):
    tables.print_facts([("model", "word " * 100), ("", "more")])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("model  word") and second == "       more"


def test_on_a_terminal_a_fact_wraps_below_its_value(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    tables.print_facts([("model", "word " * 20)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1 and all(len(line) <= 40 for line in lines)
    assert all(line.startswith("       word") for line in lines[1:])
