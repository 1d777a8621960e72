"""Parameters of another run to begin with: which becomes which, and nothing by accident."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from palmscale.checkpoint.describe import differences, listed, shapes
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Which parameters a run takes from another one; the optimizer begins anew in any case.

    In a pattern each `*` stands for any text. Every stored parameter must come to a parameter of
    this run of the same shape and dtype, and every parameter of this run must get one, unless
    `unused` or `fresh` says otherwise; a pattern that matches nothing is a mistake.

    Attributes:
        workdir: of the other run.
        checkpoint: `latest`, `best` or a step.
        rename: pattern of stored names to the name here, whose `*` are what those of the pattern
            stand for, in order. The first that matches counts.
        fresh: patterns of names here whose parameters begin as in a run without a warm start.
        unused: patterns of stored names to leave out.
    """

    workdir: str
    checkpoint: int | str = "latest"
    rename: dict[str, str] = dataclasses.field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.checkpoint, str) and self.checkpoint not in ("latest", "best"):
            raise UserError(
                f"WarmStart.checkpoint={self.checkpoint!r} - needed is 'latest', 'best' or a step"
            )
        for old, new in self.rename.items():
            if old.count("*") != new.count("*"):
                raise UserError(
                    f"WarmStart.rename has {old!r}: {new!r} - each `*` of one stands for that of"
                    " the other - write as many in both"
                )


def sources(warm: WarmStart, stored: Iterable[str], here: Iterable[str]) -> dict[str, str]:
    """Returns the stored name that each parameter here comes from; a fresh one is left out.

    Raises:
        UserError: names are missing or extra, or a pattern matches nothing; all are listed.
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
                f"WarmStart: {found[target]} and {name} both become {target} - each needs a name"
                " of its own - change WarmStart.rename, or name one in WarmStart.unused"
            )
        else:
            found[target] = name
    if idle := sorted(warm.rename.keys() - used):
        raise UserError(_idle("rename", idle, "stored", stored))
    missing = [name for name in here if name not in found and name not in fresh]
    problems = []
    if extra:
        problems.append(f"stored and not in this run: {listed(extra)}")
    if missing:
        problems.append(f"in this run and not stored: {listed(missing)}")
    if problems:
        raise UserError(
            f"WarmStart: the parameters in {warm.workdir} are not those of this run:"
            f" {'; '.join(problems)} - every one needs its other - bind WarmStart.rename, or name"
            " them in WarmStart.unused or WarmStart.fresh"
        )
    return found


def warm_parameters(
    warm: WarmStart, reader: CheckpointReader, params: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[int, dict[str, Any]]:
    """Returns the step that was read, and the parameters from it, by their names in this run.

    They land in the shardings of `params`, this run's abstract parameters by name. All processes
    call it.

    Raises:
        UserError: names, shapes or dtypes do not fit, or there is no such checkpoint.
    """

    found: dict[str, str] = {}

    def wanted(stored: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
        found.clear()
        found.update(sources(warm, stored, params))
        here = {target: params[target] for target in found}
        there = {target: stored[name] for target, name in found.items()}
        if wrong := differences(there, shapes(here)):
            raise UserError(
                f"WarmStart: the parameters in {warm.workdir} do not fit: {'; '.join(wrong)} - the"
                " same shape and dtype are needed, nothing is cast - name them in WarmStart.fresh,"
                " or change the model"
            )
        return {name: params[target] for target, name in found.items()}

    step = None if warm.checkpoint == "latest" else warm.checkpoint
    restored = reader.restore_some(step, wanted)
    if restored is None:
        raise UserError(
            f"WarmStart.workdir={warm.workdir!r} has no checkpoint in {reader.directory} - a run"
            " that has saved one is needed - name its folder"
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
        f"WarmStart.{field} has {listed(patterns)}, which matches no parameter - {whose} are"
        f" {listed(names)} - correct the pattern, or take it out"
    )


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(re.escape(part) for part in pattern.split("*")))


def _filled(pattern: str, texts: Iterable[str]) -> str:
    first, *rest = pattern.split("*")
    return first + "".join(text + part for text, part in zip(texts, rest, strict=True))
