from palmscale.observe import tables


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


def test_what_a_terminal_would_obey_is_escaped(capsys):
    tables.print_table(("a\x1b[31m",), [["b\x1b]0;title\x07\nsecond"]])
    tables.print_facts([("c\x1b", "d\x1b[2J\nsecond")])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\x07" not in printed
    assert "b\\x1b]0;title\\x07\\nsecond" in printed and "d\\x1b[2J\nsecond" in printed
