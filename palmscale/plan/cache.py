"""Verdicts on programs that were compiled before, by everything that decides them.

The key covers the step (its digest, and all that the planner's arithmetic knows of it), the order
of the devices in its mesh, the topology with its chip, the compiler's options and versions, and
the source files that compile and judge. Prices and token budgets are no part of it: they are
applied to a verdict afterwards.
"""

import ast
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

import palmscale
from palmscale.partition.shardings import path_name
from palmscale.plan.hardware.topology import Topology
from palmscale.plan.report import numbers
from palmscale.plan.step import Step
from palmscale.plan.verdict import DoesNotFit, Fits
from palmscale.run import place
from palmscale.run.versions import compiler_versions

# What decides an answer beyond the values in the key: how a step is compiled and judged. How it is
# lowered is known by its result.
_ROOTS = ("plan/judge.py", "train/compile.py")


def key_of(step: Step, topology: Topology, options: Mapping[str, Any]) -> str:
    """Returns the key of a step's verdict on a topology, compiled with these options."""
    whole = {
        "step": _facts(step),
        "topology": dataclasses.asdict(topology),
        "peak_flops": topology.chip.peak_flops,
        "options": dict(options),
        "versions": compiler_versions(),
        "sources": sources_digest(Path(palmscale.__file__).parent),
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def read(key: str) -> Fits | DoesNotFit | None:
    """Returns the verdict of a key, or None where none can be read."""
    try:
        return numbers.verdict_from_json(json.loads(_file(key).read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(key: str, verdict: Fits | DoesNotFit) -> None:
    """Stores a verdict; does nothing where the folder cannot be written."""
    path = _file(key)
    part = path.with_name(f"{key}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(numbers.verdict_to_json(verdict)))
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()


@functools.cache
def sources_digest(package: Path) -> str:
    """Returns the SHA-256 of the package's files that compile and judge, and all they import."""
    waiting, files = [package / name for name in _ROOTS], set()
    while waiting:
        path = waiting.pop()
        if path not in files:
            files.add(path)
            waiting += _imported(path, package)
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(path.relative_to(package).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def _imported(source: Path, package: Path) -> Iterator[Path]:
    """Yields the files of the package that a source file imports."""
    for node in ast.walk(ast.parse(source.read_bytes())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            path = package.joinpath(*rest).with_suffix(".py")
            if first == "palmscale" and rest and path.is_file():
                yield path


def _facts(step: Step) -> dict[str, Any]:
    """Returns everything in a step but how it is compiled, as JSON."""
    arrays = jax.tree_util.tree_leaves_with_path((step.params, step.optimizer_state))
    fields = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
    for live in ("compile", "mesh", "params", "optimizer_state"):
        del fields[live]
    return {
        **fields,
        "mesh": list(step.mesh.shape.items()),
        "devices": [device.id for device in step.mesh.devices.flat],
        "arrays": [
            (path_name(path), leaf.shape, str(leaf.dtype), leaf.sharding.shard_shape(leaf.shape))
            for path, leaf in arrays
        ],
    }


def _file(key: str) -> Path:
    return place.cache_directory() / "plans" / f"{key}.json"
