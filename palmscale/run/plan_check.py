"""Compares a run with its plan: whether the step compiled now is the one that was planned."""

import json
from collections.abc import Mapping
from typing import Any, TypedDict

from palmscale.observe import log
from palmscale.run.identity import changes
from palmscale.run.workdir import PLAN
from palmscale.storage.inside import read_limited
from palmscale.storage.place import Place
from palmscale.storage.typed_json import MOST_BYTES, parse

_MOST_SHOWN = 6


class _PlannedStep(TypedDict):
    batch_sequences: int
    step_digest: str
    topology: str


class _Plan(TypedDict):
    plans: list[_PlannedStep]
    run: dict[str, Any]
    versions: dict[str, Any]


def compare_with_plan(
    workdir: Place,
    *,
    step_digest: str,
    batch_sequences: int,
    run: Mapping[str, Any],
    versions: Mapping[str, str],
) -> None:
    """Logs whether the compiled step is the one in the workdir's plan, and what differs if not.

    Logs nothing where there is no plan, or none of this batch.

    Args:
        workdir: the run's folder.
        step_digest: of the compiled step.
        batch_sequences: of its batch.
        run: the run, as JSON; see palmscale.run.identity.describe.
        versions: of what decides its numbers, by name.
    """
    path = workdir / PLAN
    if not path.is_file():
        return
    plan = parse(read_limited(path, MOST_BYTES), _Plan, path)
    stages = [one for one in plan["plans"] if one["batch_sequences"] == batch_sequences]
    if not stages:
        return
    if any(one["step_digest"] == step_digest for one in stages):
        log.say(f"The compiled step is the one planned in {path}.")
        return
    changed = {
        **changes(plan["run"], json.loads(json.dumps(run))),
        **changes(plan["versions"], dict(versions)),
    }
    listed = ", ".join(
        f"{name}: {a!r} -> {b!r}" for name, (a, b) in [*changed.items()][:_MOST_SHOWN]
    )
    log.warn(
        f"the compiled step is not the one planned in {path} for {stages[0]['topology']}"
        f" ({listed or 'the settings are equal, so the devices or their order differ'}), so its"
        " verdict may not hold; plan again, or undo the change."
    )
