"""Tables and sizes on standard output, for a person or for the next program in a pipe."""

import shutil
import sys
import textwrap
from collections.abc import Sequence

from palmscale.observe.controls import escaped

_PIPED_WIDTH = 120


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    piped_width: int = _PIPED_WIDTH,
) -> None:
    """Prints rows under headings, the columns numbered in `right` aligned to the right.

    Cells wrap at the terminal's width; without a terminal at `piped_width`, and have no colors.
    What a terminal would obey is escaped: cells may come from files of others.
    """
    # Here, not above: `palmscale --help` does not wait for it.
    import rich.box
    import rich.console
    import rich.table
    import rich.text

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, heading in enumerate(headings):
        justify = "right" if number in right else "left"
        table.add_column(escaped(heading), justify=justify, overflow="fold", no_wrap=number == 0)
    for row in rows:
        # Not a str, whose [brackets] would be markup.
        table.add_row(*(rich.text.Text(escaped(cell).replace("\n", "\\n")) for cell in row))
    width = None if sys.stdout.isatty() else piped_width
    rich.console.Console(width=width, highlight=False).print(table)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Prints pairs of a name and its value, the values below each other.

    Values wrap at the terminal's width; without a terminal each fact is one line. What a terminal
    would obey is escaped.
    """
    facts = [(escaped(name), escaped(value)) for name, value in facts]
    indent = max(len(name) for name, _ in facts) + 2
    room = shutil.get_terminal_size().columns - indent
    for name, value in facts:
        wraps = sys.stdout.isatty() and room > 20
        lines = textwrap.wrap(value, room, break_on_hyphens=False) if wraps else [value]
        print(f"{name:<{indent}}" + f"\n{'':<{indent}}".join(lines))
