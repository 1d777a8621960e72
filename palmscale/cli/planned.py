"""A run beside its plan: whether the step that is compiled now is the one that was planned."""

import json
from collections.abc import Mapping
from typing import Any

from palmscale.cli.run import differences
from palmscale.observe import log
from palmscale.storage.place import Place

PLAN_FILE, PAGE_FILE = "plan.json", "plan.html"
_MOST_SHOWN = 6


def compare_with_plan(
    workdir: Place,
    *,
    step_digest: str,
    batch_sequences: int,
    run: Mapping[str, Any],
    versions: Mapping[str, str],
) -> None:
    """Says whether the compiled step is the one in the workdir's plan.json; what differs if not.

    Says nothing where there is no plan, or none of this batch: nothing was promised then.
    """
    path = workdir / PLAN_FILE
    if not path.is_file():
        return
    plan = json.loads(path.read_text())
    stages = [one for one in plan["plans"] if one["batch_sequences"] == batch_sequences]
    if not stages:
        return
    if any(one["step_digest"] == step_digest for one in stages):
        log.say(f"The compiled step is the one that {path} plans.")
        return
    changed = {
        **differences(plan["run"], json.loads(json.dumps(run))),
        **differences(plan["versions"], dict(versions)),
    }
    listed = ", ".join(
        f"{name}: {a!r} -> {b!r}" for name, (a, b) in [*changed.items()][:_MOST_SHOWN]
    )
    log.warn(
        f"the compiled step is not the one that {path} plans, for {stages[0]['topology']}:"
        f" {listed or 'the settings are the same, so the devices or their order differ'}; its"
        " verdict may not hold. Plan again, or undo the change."
    )
