"""Plans generation with PaLM beside the figures of Pope et al. 2022 (arXiv:2211.05102).

    python benchmarks/plan_generation.py            # plans the rows that are not stored, and writes
    python benchmarks/plan_generation.py --again    # plans all of them

A row is one program, compiled alone; the largest take minutes. Results are stored one by one in
benchmarks/results/plan_generation.json, and the table is written into docs/planning.md.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX starts

import page

from palmscale.cli.config.load import load_run
from palmscale.plan.generation import generator_on, plan_phase
from palmscale.plan.hardware import libtpu, topology

PROMPT, NEW = 2048, 64  # tokens of a prompt and of its continuation, as in the paper
STORED = page.RESULTS / "plan_generation.json"
PAGE = page.PAGE.with_name("planning.md")
RECIPES = {"8B": "palm_8b_v5e_256", "62B": "palm_62b_v4_512", "540B": "palm_540b_v4_3072"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A program, and what was published of it.

    Attributes:
        model: 8B, 62B or 540B.
        topology: as plan names it.
        phase: prefill of 2,048 tokens, or decode of one.
        sequences: side by side.
        quantize: `int8` or None, as the published run was.
        published_seconds: of a prefill or of one decode step; None: not published.
        published_mfu: likewise.
    """

    model: str
    topology: str
    phase: str
    sequences: int
    quantize: str | None = None
    published_seconds: float | None = None
    published_mfu: float | None = None

    @property
    def name(self) -> str:
        """What the row is stored by."""
        weights = self.quantize or "bfloat16"
        return f"{self.model} {self.topology} {self.phase} {self.sequences} {weights}"


def rows() -> list[Row]:
    """Returns the rows of the table: three models, both phases, and the paper's own runs.

    The paper's seconds are of 64 decoded tokens (tables 2 and 3).
    """
    published = {
        ("540B", "prefill", 1, "int8"): (0.29, 0.43),
        ("540B", "prefill", 512, None): (85.2, 0.76),
        ("540B", "decode", 64, None): (0.0369, None),
        ("540B", "decode", 64, "int8"): (0.0285, 0.14),
        ("540B", "decode", 512, None): (6.0 / NEW, 0.33),
        ("62B", "prefill", 1, "int8"): (0.16, 0.36),
        ("62B", "decode", 32, "int8"): (0.73 / NEW, 0.08),
    }
    found = []
    for model, where in (("8B", "v5e:4x4"), ("62B", "v4:2x2x4"), ("540B", "v4:4x4x4")):
        cases = [(p, n, None) for p in ("prefill", "decode") for n in (1, 64, 512)]
        cases += [case[1:] for case in published if case[0] == model and case[1:] not in cases]
        for phase, sequences, quantize in sorted(cases, key=lambda case: case[0], reverse=True):
            seconds, mfu = published.get((model, phase, sequences, quantize), (None, None))
            found.append(
                Row(
                    model=model,
                    topology=where,
                    phase=phase,
                    sequences=sequences,
                    quantize=quantize,
                    published_seconds=seconds,
                    published_mfu=mfu,
                )
            )
    found.append(Row(model="540B", topology="v4:8x8x8", phase="decode", sequences=64))
    # What the paper ran on other slices.
    found.append(
        Row(
            model="62B", topology="v4:2x4x4", phase="prefill", sequences=512,
            published_seconds=20.2, published_mfu=0.73,
        )
    )  # fmt: skip
    found.append(
        Row(
            model="62B", topology="v4:2x2x2", phase="decode", sequences=512,
            published_seconds=5.1 / NEW, published_mfu=0.37,
        )
    )  # fmt: skip
    return found


def planned(row: Row) -> dict[str, object]:
    """Returns the plan of a row, as JSON values."""
    run = load_run([f"configs/recipes/{RECIPES[row.model]}.gin"], [])
    where = topology.parse(row.topology)
    with libtpu.compiler():
        plan = plan_phase(
            generator_on(run, where, quantize=row.quantize),
            where,
            sequences=row.sequences,
            new_tokens=PROMPT if row.phase == "prefill" else 1,
            positions=PROMPT + NEW,
        )
    memory = plan.verdict.memory
    return {
        **dataclasses.asdict(row),
        "chips": where.chips,
        "chip": where.chip.name,
        "layout": plan.choice.table,
        "fits": plan.verdict.fits,
        "needed_bytes": memory.needed_bytes,
        "offered_bytes": memory.offered_bytes,
        "weight_bytes": plan.weight_bytes,
        "cache_bytes": plan.cache_bytes,
        "read_seconds": plan.read_seconds,
        "seconds": plan.seconds,
        "mfu": plan.seconds and [plan.mfu(seconds) for seconds in plan.seconds],
    }


def table(result: Mapping[str, Any]) -> str:
    """Returns the rows beside what was published; an error is that of the interval's middle."""
    headings = (
        "model", "chips", "phase", "batch", "weights", "layout", "GiB a device", "predicted ms",
        "published ms", "error", "predicted MFU", "published MFU",
    )  # fmt: skip
    cells = []
    for row in result["rows"].values():
        needed, offered = row["needed_bytes"] / 2**30, row["offered_bytes"] / 2**30
        fits = f"{needed:.1f} of {offered:.1f}" + ("" if row["fits"] else ": does not fit")
        published, mfu = row["published_seconds"], row["published_mfu"]
        cells.append(
            (
                row["model"],
                f"{row['chips']} {row['chip']}",
                row["phase"],
                f"{row['sequences']:,}",
                row["quantize"] or "bfloat16",
                f"`{row['layout']}`",
                fits,
                between(row["seconds"], 1e3, ",.1f"),
                "" if published is None else f"{published * 1e3:,.1f}",
                error(row),
                between(row["mfu"] and row["mfu"][::-1], 100, ".1f"),
                "" if mfu is None else f"{mfu:.0%}",
            )
        )
    lines = [" | ".join(line) for line in (headings, *cells)]
    lines.insert(1, "|".join(["---", "---", "---", "--:", "---", "---", *["--:"] * 6]))
    when = f"{result['date']}, {result['versions']}."
    return "\n".join(
        [when, "", f"| {lines[0]} |", f"|{lines[1]}|", *(f"| {x} |" for x in lines[2:])]
    )


def between(bounds: Sequence[float] | None, factor: float, form: str) -> str:
    """Returns both bounds, or one if they print alike."""
    texts = [format(bound * factor, form) for bound in bounds or ()]
    return " to ".join(dict.fromkeys(texts))


def error(row: Mapping[str, Any]) -> str:
    """Returns by how much the middle of the predicted times misses the published one."""
    if row["published_seconds"] is None or row["seconds"] is None:
        return ""
    return f"{sum(row['seconds']) / 2 / row['published_seconds'] - 1:+.0%}"


def written(text: str) -> str:
    """Returns the page with the table of the stored results."""
    block = table(json.loads(STORED.read_text()))
    return page.BLOCK.sub(lambda found: f"{found[1]}{block}\n{found[4]}", text)


def main() -> None:
    """Plans what is missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="plan all rows again")
    parser.add_argument("--only", default="", help="plan only rows whose name contains this")
    args = parser.parse_args()
    known = json.loads(STORED.read_text())["rows"] if STORED.exists() and not args.again else {}
    for row in rows():
        if row.name in known or args.only not in row.name:
            continue
        known[row.name] = planned(row)
        ordered = {one.name: known[one.name] for one in rows() if one.name in known}
        STORED.write_text(json.dumps(page.circumstances() | {"rows": ordered}, indent=1) + "\n")
        print(row.name, known[row.name]["seconds"], flush=True)
    PAGE.write_text(written(PAGE.read_text()))


if __name__ == "__main__":
    main()
