"""Warm starts: initial parameters from another run, matched by name, shape and dtype."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.summary import listed, mismatches, shapes
from palmscale.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Which initial parameters to take from another run. The optimizer state always starts fresh.

    In a pattern, each `*` matches any text. Every stored parameter must map to a parameter of this
    run with the same shape and dtype, unless it is listed in `unused`. Every parameter of this run
    must receive one, unless it is listed in `fresh`. A pattern that matches nothing is an error.

    Attributes:
        workdir: the other run's workdir.
        checkpoint: `latest`, `best` or a step.
        rename: maps patterns of stored names to names in this run, whose `*` are replaced in order
            by the matched text. The first pattern that matches applies.
        fresh: patterns of this run's names that are initialized as without a warm start.
        unused: patterns of stored names to ignore.

    Raises:
        UserError: `checkpoint` is not valid, or a pattern in `rename` and its replacement have
            different numbers of `*`.
    """

    workdir: str
    checkpoint: int | str = "latest"
    rename: dict[str, str] = dataclasses.field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.checkpoint, str) and self.checkpoint not in ("latest", "best"):
            raise UserError(
                f"WarmStart.checkpoint={self.checkpoint!r} must be 'latest', 'best' or a step."
            )
        for old, new in self.rename.items():
            if old.count("*") != new.count("*"):
                raise UserError(
                    f"WarmStart.rename has {old!r}: {new!r}; use the same number of `*` in both."
                )


def sources(warm: WarmStart, stored: Iterable[str], here: Iterable[str]) -> dict[str, str]:
    """Returns the stored name for each parameter of this run, except fresh ones.

    Raises:
        UserError: names are missing or extra, or a pattern matches nothing; all of them are listed.
    """
    stored, here = sorted(stored), sorted(here)
    unused = _matching(warm.unused, stored, "unused", "stored")
    fresh = _matching(warm.fresh, here, "fresh", "this run's")
    renames = [(_regex(old), new, old) for old, new in warm.rename.items()]
    used: set[str] = set()
    found: dict[str, str] = {}
    extra = []
    for name in stored:
        target = name
        for pattern, new, old in renames:
            if match := pattern.fullmatch(name):
                used.add(old)
                target = _filled(new, match.groups())
                break
        if name in unused or target in fresh:
            continue
        if target not in here:
            extra.append(name if target == name else f"{name} (as {target})")
        elif target in found:
            raise UserError(
                f"WarmStart: {found[target]} and {name} both become {target}; change"
                " WarmStart.rename, or list one of them in WarmStart.unused."
            )
        else:
            found[target] = name
    if idle := sorted(warm.rename.keys() - used):
        raise UserError(_idle("rename", idle, "stored", stored))
    missing = [name for name in here if name not in found and name not in fresh]
    problems = []
    if extra:
        problems.append(f"stored but not in this run: {listed(extra)}")
    if missing:
        problems.append(f"in this run but not stored: {listed(missing)}")
    if problems:
        raise UserError(
            f"WarmStart: the parameters in {warm.workdir} do not match this run's:"
            f" {'; '.join(problems)}; map them with WarmStart.rename, or list them in"
            " WarmStart.unused or WarmStart.fresh."
        )
    return found


def not_fresh(warm: WarmStart, here: Iterable[str]) -> list[str]:
    """Returns those of this run's parameters that no pattern of `fresh` matches."""
    patterns = [_regex(pattern) for pattern in warm.fresh]
    return [name for name in here if not any(p.fullmatch(name) for p in patterns)]


def warm_parameters(
    warm: WarmStart, reader: CheckpointReader, params: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[int, dict[str, Any]]:
    """Returns the restored step and its parameters, by their names in this run.

    They are loaded in the shardings of `params`, this run's abstract parameters by name. All
    processes must call this.

    Raises:
        UserError: names, shapes or dtypes do not match, or the checkpoint does not exist.
    """

    found: dict[str, str] = {}

    def wanted(stored: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
        found.clear()
        found.update(sources(warm, stored, params))
        here = {target: params[target] for target in found}
        there = {target: stored[name] for target, name in found.items()}
        if wrong := mismatches(there, shapes(here)):
            raise UserError(
                f"WarmStart: the parameters in {warm.workdir} do not match: {'; '.join(wrong)};"
                " shapes and dtypes must be equal (nothing is cast): list them in WarmStart.fresh,"
                " or change the model."
            )
        return {name: params[target] for target, name in found.items()}

    step = None if warm.checkpoint == "latest" else warm.checkpoint
    restored = reader.restore_some(step, wanted)
    if restored is None:
        raise UserError(
            f"WarmStart.workdir={warm.workdir!r} has no checkpoint in {reader.directory}; use the"
            " workdir of a run that has saved one."
        )
    step, arrays = restored
    return step, {target: arrays[name] for target, name in found.items()}


def _matching(patterns: tuple[str, ...], names: list[str], field: str, whose: str) -> set[str]:
    matched: set[str] = set()
    idle = []
    for pattern in patterns:
        found = {name for name in names if _regex(pattern).fullmatch(name)}
        matched |= found
        if not found:
            idle.append(pattern)
    if idle:
        raise UserError(_idle(field, idle, whose, names))
    return matched


def _idle(field: str, patterns: list[str], whose: str, names: list[str]) -> str:
    return (
        f"WarmStart.{field} has {listed(patterns)}, which matches no parameter; {whose} are"
        f" {listed(names)}; correct or remove the pattern."
    )


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(re.escape(part) for part in pattern.split("*")))


def _filled(pattern: str, texts: Iterable[str]) -> str:
    first, *rest = pattern.split("*")
    return first + "".join(text + part for text, part in zip(texts, rest, strict=True))
