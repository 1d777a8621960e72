"""Plans as one self-contained HTML page: no network, no scripts."""

import html
from collections.abc import Mapping, Sequence

from palmscale.plan.hardware.chips import GIB
from palmscale.plan.plans import Plan, Plans
from palmscale.plan.report import lines, numbers
from palmscale.plan.verdict import CollectiveUse, Fits, Prediction

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
# The legend repeats the order and the sizes, for readers who cannot tell the colors apart.
_COLORS = ("#2f6db3", "#e08a2c", "#3f9a62", "#b8476b", "#7a63b8", "#9aa3ad", "#c9b44a", "#4aa6b8")
_MOST_COLLECTIVES = 40


def page(plans: Plans) -> str:
    """Returns the page of a run's plans."""
    title = f"Plan: {plans.verdict.topology}"
    body = "".join(map(_one, plans.plans))
    versions = ", ".join(f"{name} {version}" for name, version in plans.versions.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{_text(title)}</h1>{body}"
        f'<p class="quiet">Made with {_text(versions)}. How: docs/planning.md.</p>'
        "</body></html>\n"
    )


def _one(plan: Plan) -> str:
    verdict = plan.verdict
    state = "fits" if verdict.fits else "fails"
    batch = f"{verdict.batch_sequences:,} sequences of {verdict.sequence_length:,} tokens"
    parts = [
        f"<h2>{batch}</h2>",
        f'<p class="verdict {state}">{_text(lines.memory_line(verdict))}</p>',
        _table(("", ""), [(name.strip(), value) for name, value in lines.facts(plan)]),
    ]
    if not isinstance(verdict, Fits):
        return "".join(parts)
    memory = {**verdict.memory.state_bytes, **verdict.memory.peak_bytes_by_kind}
    parts += ["<h3>Memory of a device</h3>", _bar(memory, verdict.memory.offered_bytes)]
    if verdict.prediction is not None:
        parts += ["<h3>Time of a step</h3>", _times(verdict.prediction)]
    if verdict.unexpected_collectives:
        rows = [
            (_where(one.collective), one.why, _gib(one.collective.bytes_per_step))
            for one in verdict.unexpected_collectives
        ]
        heading = ("collective", "why", "GiB a step")
        parts += ["<h3>Unexpected collectives</h3>", _table(heading, rows, (2,))]
    if verdict.collectives:
        parts += [f"<h3>Collectives</h3>{_collectives(verdict.collectives)}"]
    return "".join(parts)


def _bar(sizes: Mapping[str, int], offered: int) -> str:
    """Returns a stacked bar: what a device's memory holds, against what it offers."""
    width, height = 900, 34
    whole = max(sum(sizes.values()), offered)
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
    limit = offered / whole * width
    return (
        f'<svg viewBox="0 0 {width} {height}" width="100%" role="img" '
        f'aria-label="memory by kind"><rect width="{limit:.1f}" height="{height}" '
        f'fill="#eef0f2"/>{"".join(boxes)}<line x1="{limit - 1:.1f}" x2="{limit - 1:.1f}" y1="0" '
        f'y2="{height}" stroke="#8a1c12" stroke-width="2"/></svg><table>{"".join(legend)}</table>'
    )


def _times(prediction: Prediction) -> str:
    seconds = prediction.seconds
    rows = [
        ("compute", seconds.compute_lower_bound, seconds.compute_upper_bound),
        *(
            (
                f"exposed communication over {axis}",
                seconds.exposed_communication_lower_bound.get(axis, 0.0),
                most,
            )
            for axis, most in seconds.exposed_communication_upper_bound.items()
            if most >= 0.001
        ),
        ("a step", prediction.lower_bound.step_seconds, prediction.upper_bound.step_seconds),
    ]
    cells = [(name, f"{least:.3f}", f"{most:.3f}") for name, least, most in rows]
    heading = ("seconds", "lower bound", "upper bound")
    return f'<p class="quiet">{_text(numbers.PREDICTION)}</p>' + _table(heading, cells, (1, 2))


def _collectives(found: Sequence[CollectiveUse]) -> str:
    shown = sorted(found, key=lambda one: -one.milliseconds_per_step)
    rows = [
        (
            _where(one),
            one.phase,
            f"{one.executions_per_layer:g}",
            _gib(one.bytes * one.executions_per_layer),
            _gib(one.bytes_per_step),
            f"{one.milliseconds_per_step / 1e3:.3f}",
            "yes" if one.asynchronous else "no",
            one.source.rpartition("/")[2],
        )
        for one in shown[:_MOST_COLLECTIVES]
    ]
    heading = ("collective", "pass", "a layer", "GiB a layer", "GiB a step", "seconds a step",
               "asynchronous", "source")  # fmt: skip
    more = len(found) - len(rows)
    tail = f'<p class="quiet">and {more} smaller ones, in plan.json</p>' if more > 0 else ""
    return _table(heading, rows, (2, 3, 4, 5)) + tail


def _where(one: CollectiveUse) -> str:
    return f"{one.kind} over {one.axis}, {one.array}"


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
