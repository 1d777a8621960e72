"""The figures of docs/performance.md: results that benchmarks store, and the tables made of them.

    python benchmarks/page.py        # writes the page's blocks from the stored results

A benchmark with --write stores its result in benchmarks/results/ and then does the same. A block
stands between `<!-- benchmark: NAME -->` and `<!-- end -->`; nothing in it is written by hand.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"
PAGE = pathlib.Path(__file__).parents[1] / "docs/performance.md"
BLOCK = re.compile(r"(<!-- benchmark: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

Result = Mapping[str, Any]


def add_write(parser: argparse.ArgumentParser) -> None:
    """Adds --write."""
    parser.add_argument(
        "--write", action="store_true", help="store the result and write docs/performance.md"
    )


def circumstances() -> dict[str, str]:
    """Returns when and where a benchmark runs, and with which versions."""
    packages = ("jax", "flax", "optax")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    (model, *_) = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{len(os.sched_getaffinity(0))} cores of {model}",
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
    }


def store(name: str, result: Result) -> None:
    """Stores a benchmark's result, and writes the page."""
    text = json.dumps(circumstances() | dict(result), indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    PAGE.write_text(written(PAGE.read_text()))


def written(page: str) -> str:
    """Returns the page with each block as its stored result has it."""

    def block(found: re.Match[str]) -> str:
        result = json.loads((RESULTS / f"{found[2]}.json").read_text())
        return f"{found[1]}{BLOCKS[found[2]](result)}\n{found[4]}"

    return BLOCK.sub(block, page)


def train_step(result: Result) -> str:
    """Returns milliseconds, CPU-seconds and speedups of the train steps."""
    first, *_ = steps = result["steps"]
    rows = []
    for step in steps:
        wall = [b / a for a, b in zip(step["seconds"], first["seconds"], strict=True)]
        cpu = [b / a for a, b in zip(step["cpu_seconds"], first["cpu_seconds"], strict=True)]
        is_first = step is first
        rows.append(
            (
                step["name"],
                f"{1e3 * statistics.median(step['seconds']):.0f}",
                f"{statistics.median(step['cpu_seconds']):.2f}",
                "1" if is_first else _spread(wall, "{:.2f}"),
                "1" if is_first else f"{statistics.median(cpu):.2f}",
            )
        )
    headings = ("step", "ms/step", "CPU-s/step", f"speedup over {first['name']}", "by CPU time")
    rounds = len(first["seconds"])
    return f"{_when(result)}, rounds: {rounds}.\n\n{_table(headings, rows)}"


def quickstart(result: Result) -> str:
    """Returns the evaluation loss of the quickstart by tokens, and what compressors reach."""
    rows = [
        (f"{point['tokens'] / 1e6:.1f} M", f"{point['bits_per_byte']:.2f}")
        for point in result["points"]
    ]
    gzip, xz = result["gzip_bits_per_byte"], result["xz_bits_per_byte"]
    return (
        f"{_when(result)}.\n\n{_table(('tokens', 'evaluation loss, bits per byte'), rows)}\n\n"
        f"For comparison, gzip -9 reaches {gzip:.2f} bits per byte on the same held-out files, and"
        f" xz {xz:.2f}."
    )


def data(result: Result) -> str:
    """Returns what a CPU-second builds and reads, and what the hosts of recipes consume."""
    built = [
        (name, _spread([rate / 1e6 for rate in rates], "{:.3g}"))
        for name, rates in result["tokens"].items()
    ]
    read = [(name, _spread(rates, "{:,.0f}")) for name, rates in result["rows"].items()]
    core = statistics.median(result["rows"][result["consumer"]])
    consumed = [
        (name, f"{rows:,.3g}", f"{core / rows:,.0f}") for name, rows in result["consumed"].items()
    ]
    small, large = (f"{peak / 1e6:,.0f} MB" for peak in result["peak_bytes"].values())
    less, more = (f"{megabytes} MB" for megabytes in result["peak_bytes"])
    return "\n\n".join(
        (
            f"{_when(result)}, {result['rounds']} rounds; medians with the smallest and largest.",
            _table(("text to tokens", "million tokens per CPU-second"), built),
            _table(("random rows in batches of 16", "rows per CPU-second"), read),
            f"What one host consumes, and how many times that one core reads at {core:,.0f} rows"
            " per CPU-second:",
            _table(("recipe", "rows of 2,048 per second and host", "times"), consumed),
            f"A cold reader jumps to step 1,000,000 and reads its 32 rows in"
            f" {result['seek_ms']:.0f} ms. A build's peak memory in one process is {small} for"
            f" {less} of text and {large} for {more}.",
        )
    )


def data_mixture(result: Result) -> str:
    """Returns what each source of the mixture builds, and how the training on it goes."""
    headings = ("source", "documents", "rows", "seconds", "MB of text per CPU-second")
    rows = [
        (
            source["name"],
            f"{source['documents']:,.0f}",
            f"{source['rows']:,.0f}",
            f"{source['seconds']:.1f}",
            f"{source['megabytes_per_cpu_second']:.1f}",
        )
        for source in result["sources"]
    ]
    first, last = result["losses"]
    least, most = min(result["input_waits"]), max(result["input_waits"])
    return (
        f"{_when(result)}.\n\n{_table(headings, rows)}\n\n"
        f"The quickstart's model then trains on the mixture, weighted 5 : 3 : 2, for"
        f" {result['steps']} steps of 16 rows. Its loss falls from {first:.2f} to {last:.2f}, and"
        f" it waits for input {100 * least:.1f} to {100 * most:.1f}% of the time."
    )


def serve(result: Result) -> str:
    """Returns the speed of a server with one client and with many, and its latencies."""
    speed, one = result["tokens_per_second"], result["one_client_tokens_per_second"]
    first, step = result["lone_first_seconds"], result["step_seconds"]
    before, *_, after = result["rss_bytes"]
    rows = [
        ("tokens per second, one client", f"{one:.1f}", ""),
        (f"tokens per second, {result['clients']} clients", f"{speed:.1f}", f"{speed / one:.1f}x"),
        ("errors", f"{len(result['errors'])} of {result['requests']:,} requests", "0"),
        ("slots held afterwards", f"{result['slots_held']}", "0"),
        ("resident memory, before and after", f"{before / 1e6:.0f} and {after / 1e6:.0f} MB", ""),
        ("time to first token, alone", f"{first:.3f} s", ""),
        (
            f"the same, 95th percentile at {result['arrivals_per_second']:.2f} requests per second",
            f"{result['first_seconds_p95']:.3f} s",
            f"2x alone and a step: {2 * first + step:.3f} s",
        ),
        (
            "greatest gap between two tokens",
            f"{result['greatest_gap_seconds']:.3f} s",
            f"a chunk and a step: {result['chunk_seconds'] + step:.3f} s",
        ),
    ]
    return (
        f"{_when(result)}; {result['size']} parameters, {result['slots']} slots.\n\n"
        f"{_table(('', 'measured', 'to compare'), rows)}"
    )


def generate(result: Result) -> str:
    """Returns CPU-seconds per token of each engine, and what palmscale's engine saves."""
    first, *_ = engines = result["engines"]
    base = first["cpu_seconds_per_token"]
    rows = []
    for engine in engines:
        seconds = engine["cpu_seconds_per_token"]
        ratios = [theirs / ours for theirs, ours in zip(seconds, base, strict=True)]
        difference = result["differences"].get(engine["name"])
        rows.append(
            (
                engine["name"],
                _spread(seconds, "{:.3f}"),
                "1" if engine is first else _spread(ratios, "{:.2f}"),
                "weights of its own" if difference is None else f"{difference:.0e}",
            )
        )
    median = {name: statistics.median(values) for name, values in result["palmscale"].items()}
    more = [
        ("a token after 32, cache of 2,048", f"{median['early']:.3f} CPU-s"),
        ("a token after 1,984, cache of 2,048", f"{median['late']:.3f} CPU-s"),
        ("a token of 64 prompts, one by one", f"{median['one_by_one']:.4f} CPU-s"),
        ("a token of 64 prompts, 32 slots", f"{median['batched']:.4f} CPU-s"),
        ("... times as fast", f"{median['one_by_one'] / median['batched']:.1f}"),
        ("the second choice of 16 tokens after 257, over its own tokens alone",
         f"{median['choice'] / median['own']:.2f}"),
        ("prompt lookup of 8 tokens on text that repeats, times as fast",
         f"{median['plain'] / median['foreseen']:.1f}"),
    ]  # fmt: skip
    headings = ("engine", "CPU-s per token", "over the first", "largest difference")
    return (
        f"{_when(result)}, {result['parameters'] / 1e6:.0f} M parameters, rounds: {len(base)}.\n\n"
        f"{_table(headings, rows)}\n\n{_table(('palmscale', 'median'), more)}"
    )


BLOCKS: dict[str, Callable[[Result], str]] = {
    function.__name__: function
    for function in (train_step, generate, serve, quickstart, data, data_mixture)
}


def _when(result: Result) -> str:
    return ", ".join(result[name] for name in ("date", "machine", "versions"))


def _spread(values: Sequence[float], form: str) -> str:
    """Returns the median with the least and the greatest of several values."""
    median = form.format(statistics.median(values))
    ends = ", ".join(form.format(value) for value in (min(values), max(values)))
    return median if len(values) == 1 else f"{median} [{ends}]"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; all columns but the first are aligned to the right."""
    marks = ["---", *["--:"] * (len(headings) - 1)]
    lines = [" | ".join(cells) for cells in (headings, *rows)]
    lines.insert(1, "|".join(marks))
    return "\n".join([f"| {lines[0]} |", f"|{lines[1]}|", *(f"| {line} |" for line in lines[2:])])


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
