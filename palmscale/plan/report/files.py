"""A run's plans in its folder: `plan.json` for programs, and `plan.html` to look at."""

import json

from palmscale.plan.plans import Plans
from palmscale.plan.report import numbers
from palmscale.plan.report.page import page
from palmscale.run.workdir import PLAN, PLAN_PAGE, Workdir
from palmscale.storage.place import Place, place


def write(plans: Plans, workdir: Workdir) -> tuple[Place, Place]:
    """Writes plans to a run's folder, where training compares its step with them.

    Returns the paths of the JSON file and of the page.
    """
    folder = place(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN).write_text(json.dumps(numbers.plans_to_json(plans), indent=1))
    (folder / PLAN_PAGE).write_bytes(page(plans).encode())
    return folder / PLAN, folder / PLAN_PAGE
