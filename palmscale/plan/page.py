"""A plan as one HTML page that needs nothing else: no network, no scripts."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from palmscale.plan import report
from palmscale.plan.chips import GIB

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1f24; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.verdict { padding: .7rem 1rem; border-radius: .4rem; font-weight: 600; }
.fits { background: #e3f4e6; color: #135723; } .fails { background: #fbe4e2; color: #8a1c12; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e3e6ea;
         vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { display: block; margin: .6rem 0; } .quiet { color: #5c6670; }
code { font-size: .92em; overflow-wrap: anywhere; }
"""
# Told apart without color too: the legend repeats the order and the sizes.
_COLORS = ("#2f6db3", "#e08a2c", "#3f9a62", "#b8476b", "#7a63b8", "#9aa3ad", "#c9b44a", "#4aa6b8")
_MOST_COLLECTIVES = 40


def page(whole: Mapping[str, Any]) -> str:
    """Returns the page of what `plan.json` holds."""
    title = f"Plan: {whole['plans'][0]['topology']}"
    body = "".join(_one(plan) for plan in whole["plans"])
    versions = ", ".join(f"{name} {version}" for name, version in whole["versions"].items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{_text(title)}</h1>{body}"
        f'<p class="quiet">Made with {_text(versions)}. How: docs/planning.md.</p>'
        "</body></html>\n"
    )


def _one(plan: Mapping[str, Any]) -> str:
    state = "fits" if plan["fits"] else "fails"
    line = report.memory_line(plan["memory"], fits=plan["fits"])
    parts = [
        f"<h2>{plan['batch_sequences']:,} sequences of {plan['sequence_length']:,} tokens</h2>",
        f'<p class="verdict {state}">{_text(line)}</p>',
        _table(("", ""), [(name.strip(), value) for name, value in report.facts(plan)]),
    ]
    memory = {**plan["memory"]["state_bytes"], **plan["memory"]["peak_bytes_by_kind"]}
    if plan["fits"]:
        parts += ["<h3>Memory of a device</h3>", _bar(memory, plan["memory"]["offered_bytes"])]
    if plan["prediction"]:
        parts += ["<h3>Time of a step</h3>", _times(plan["prediction"])]
    if plan["surprises"]:
        rows = [(_where(one), one["why"], _gib(_per_step(one))) for one in plan["surprises"]]
        parts += ["<h3>Unexpected</h3>", _table(("collective", "why", "GiB a step"), rows, (2,))]
    if plan["collectives"]:
        parts += [f"<h3>Collectives</h3>{_collectives(plan['collectives'])}"]
    return "".join(parts)


def _bar(sizes: Mapping[str, int], offered: int | None) -> str:
    """A stacked bar: what a device's memory holds, against what it offers."""
    width, height = 900, 34
    whole = max(sum(sizes.values()), offered or 0, 1)
    x, boxes, legend = 0.0, [], []
    for number, (name, size) in enumerate(sizes.items()):
        color = _COLORS[number % len(_COLORS)]
        w = size / whole * width
        label = f"{name}: {_gib(size)} GiB"
        boxes.append(
            f'<rect x="{x:.1f}" y="0" width="{w:.1f}" height="{height}" fill="{color}">'
            f"<title>{_text(label)}</title></rect>"
        )
        legend.append(f'<tr><td style="color:{color}">&#9632;</td><td>{_text(label)}</td></tr>')
        x += w
    limit = (offered or whole) / whole * width
    return (
        f'<svg viewBox="0 0 {width} {height}" width="100%" role="img" '
        f'aria-label="memory by kind"><rect width="{limit:.1f}" height="{height}" '
        f'fill="#eef0f2"/>{"".join(boxes)}<line x1="{limit - 1:.1f}" x2="{limit - 1:.1f}" y1="0" '
        f'y2="{height}" stroke="#8a1c12" stroke-width="2"/></svg><table>{"".join(legend)}</table>'
    )


def _times(prediction: Mapping[str, Any]) -> str:
    seconds = prediction["seconds"]
    rows = [
        ("compute", seconds["compute_at_best"], seconds["compute"]),
        *(
            (f"collectives over {axis}", seconds["waiting_at_best"].get(axis, 0.0), moving)
            for axis, moving in seconds["moving"].items()
            if moving >= 0.001
        ),
    ]
    cells = [(name, f"{fast:.3f}", f"{slow:.3f}") for name, fast, slow in rows]
    whole = [prediction[key]["step_seconds"] for key in ("at_best", "if_nothing_overlaps")]
    cells.append(("a step", *(f"{value:.3f}" for value in whole)))
    heading = ("seconds", "at best", "if nothing overlaps")
    return f'<p class="quiet">{_text(prediction["label"])}</p>' + _table(heading, cells, (1, 2))


def _collectives(found: Sequence[Mapping[str, Any]]) -> str:
    shown = sorted(found, key=lambda one: -one["milliseconds"] * one["executions_per_step"])
    rows = [
        (
            _where(one),
            one["phase"],
            f"{one['executions_per_layer']:g}",
            _gib(one["bytes"] * one["executions_per_layer"]),
            _gib(_per_step(one)),
            f"{one['milliseconds'] * one['executions_per_step'] / 1e3:.3f}",
            "yes" if one["asynchronous"] else "no",
            one["source"].rpartition("/")[2],
        )
        for one in shown[:_MOST_COLLECTIVES]
    ]
    heading = ("collective", "pass", "a layer", "GiB a layer", "GiB a step", "seconds a step",
               "asynchronous", "source")  # fmt: skip
    more = len(found) - len(rows)
    tail = f'<p class="quiet">and {more} smaller ones, in plan.json</p>' if more > 0 else ""
    return _table(heading, rows, (2, 3, 4, 5)) + tail


def _where(one: Mapping[str, Any]) -> str:
    return f"{one['kind']} over {one['axis']}, {one['array']}"


def _per_step(one: Mapping[str, Any]) -> int:
    return one["bytes"] * one["executions_per_step"]


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.2f}"


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if number in right else ''}>{_text(cell)}</{tag}>"
            for number, cell in enumerate(row)
        )

    head = f"<tr>{cells('th', headings)}</tr>" if any(headings) else ""
    body = "".join("<tr>" + cells("td", row) + "</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def _text(value: str) -> str:
    return html.escape(str(value))
