"""Plans runs whose speed somebody published, and says how far off `palmscale plan` is.

    python benchmarks/plan_backtest.py [--rows=NAME,...] [--write=docs/planning_backtest.md]

See README.md beside this file. Each row is compiled in a process of its own, and its result kept in
`--cache`: interrupted, the command goes on where it was.
"""

import argparse
import dataclasses
import datetime
import gzip
import hashlib
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

import backtest_page
from backtest_page import Outcome, Result
from published_runs import PUBLISHED_RUNS, PublishedRun

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMAND = "python benchmarks/plan_backtest.py --write=docs/planning_backtest.md"
REMARKS = "\n## What explains the errors\n"  # from here on a page is people's, and stays


def main(
    arguments: Sequence[str] | None = None, runs: Sequence[PublishedRun] = PUBLISHED_RUNS
) -> int:
    """Runs the command line; 1 where a row could not be planned."""
    args = _parse(arguments)
    by_name = {run.name: run for run in runs}
    if args.only:
        import jax

        jax.config.update("jax_platforms", "cpu")
        predict(by_name[args.only], args.cache)
        return 0
    wanted = args.rows.split(",") if args.rows else list(by_name)
    if unknown := [name for name in wanted if name not in by_name]:
        print(f"no row {unknown[0]!r}; there are {', '.join(by_name)}", file=sys.stderr)
        return 2
    failed = False
    for run in runs:
        if run.name in wanted and Outcome(run=run, result=None).can_be_predicted:
            print(f"{run.name} ...", flush=True)
            _result_path(run, args.cache).unlink(missing_ok=True)  # if this fails, there is none
            failed |= _in_a_process(run.name, args) != 0
    outcomes = [Outcome(run=run, result=_latest(run, args.cache)) for run in runs]
    print(backtest_page.text(outcomes))
    if args.write:
        facts = {"date": datetime.date.today().isoformat(), **_versions()}
        before = args.write.read_text() if args.write.is_file() else ""
        _, heading, remarks = before.partition(REMARKS)
        page = backtest_page.page(outcomes, facts, COMMAND, heading + remarks)
        args.write.write_text(page)
    return int(failed)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", help="names of rows to plan, with commas; all")
    parser.add_argument("--write", type=pathlib.Path, help="a Markdown page to write")
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / "runs" / "plan_backtest")
    parser.add_argument("--timeout_seconds", type=float, default=3600.0, help="a row")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the row of a child process
    return parser.parse_args(arguments)


def _in_a_process(name: str, args: argparse.Namespace) -> int:
    """Plans one row in a child, which gives its memory back; returns its exit code."""
    command = [sys.executable, __file__, f"--only={name}", f"--cache={args.cache}"]
    try:
        return subprocess.run(command, cwd=ROOT, timeout=args.timeout_seconds).returncode
    except subprocess.TimeoutExpired:
        print(f"{name}: not done after {args.timeout_seconds:.0f} s", file=sys.stderr)
        return 1


def predict(run: PublishedRun, cache: pathlib.Path) -> Result:
    """Plans a row, compiling it unless the cache has its program, and writes the result there."""
    from palmscale.cli.config.load import load_run
    from palmscale.plan.hardware import libtpu, topology
    from palmscale.plan.judge import judge
    from palmscale.plan.plans import Plan
    from palmscale.plan.run_step import lowered_step

    where = topology.parse(run.topology, run.slices)
    loaded = load_run([run.gin_file], run.gin_bindings())
    with libtpu.compiler():
        step = lowered_step(loaded, where, run.sequences)
        program = Program(cache / "programs", step, loaded.layout.tpu_options)
        verdict = judge(dataclasses.replace(step, compile=program.compile), where)
    result = Result(
        versions=_versions(),
        peak_flops=where.chip.peak_flops,
        attention_flops_per_token=step.attention_flops_per_token,
        plan=Plan(verdict=verdict, tokens_to_train=step.tokens),
    )
    _write(_result_path(run, cache), json.dumps(result.to_json(), indent=1).encode())
    return result


class Program:
    """What the compiler makes of a step, kept in a file: it takes minutes, the planner seconds.

    It has what the planner asks of a `jax.stages.Compiled`.
    """

    def __init__(self, folder: pathlib.Path, step: Any, options: Mapping[str, Any]) -> None:
        facts = json.dumps([step.digest, dict(options), _versions()], sort_keys=True)
        self._path = folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:24]}.json.gz"
        self._compile = step.compile
        self._kept: dict[str, Any] = {}

    def compile(self) -> "Program":
        """Reads the file, or compiles and writes it; one that does not fit is not kept."""
        if not self._path.is_file():
            compiled = self._compile()
            memory = compiled.memory_analysis()
            sizes = {
                name: getattr(memory, name) for name in dir(memory) if name.endswith("in_bytes")
            }
            kept = {"text": compiled.as_text(), "memory": sizes}
            _write(self._path, gzip.compress(json.dumps(kept).encode()))
        self._kept = json.loads(gzip.decompress(self._path.read_bytes()))
        return self

    def as_text(self) -> str:
        """Returns the optimized program."""
        return self._kept["text"]

    def memory_analysis(self) -> types.SimpleNamespace:
        """Returns the compiler's sizes, as attributes."""
        return types.SimpleNamespace(**self._kept["memory"])


def _write(path: pathlib.Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _latest(run: PublishedRun, cache: pathlib.Path) -> Result | None:
    """Returns the last result of a row with these versions; None: there is none."""
    path = _result_path(run, cache)
    if not path.is_file():
        return None
    found = json.loads(path.read_text())
    return Result.from_json(found) if found["versions"] == _versions() else None


def _result_path(run: PublishedRun, cache: pathlib.Path) -> pathlib.Path:
    return cache / f"{run.name}.json"


def _versions() -> Mapping[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "libtpu", "palmscale")}


if __name__ == "__main__":
    sys.exit(main())
