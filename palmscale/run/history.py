"""The metrics of a run, step by step, as arrays."""

import numpy as np

from palmscale.errors import UserError
from palmscale.observe.metric_lines import MISSING, readable_lines
from palmscale.observe.reporting import METRICS, current_names
from palmscale.run.workdir import Workdir
from palmscale.storage.place import place


def history(workdir: Workdir) -> dict[str, np.ndarray]:
    """Returns the metrics that a run has written, by name, float64 [steps]; `step` is int64.

    A metric that a step does not have, such as the evaluation loss between two evaluations, is nan
    there. Lines that cannot be read are left out.

    Raises:
        UserError: the folder has no metrics.
    """
    path = place(workdir) / METRICS
    if not path.is_file():
        raise UserError(f"there are no metrics in {workdir} ({METRICS} is missing); train first.")
    lines = [current_names(line) for line in readable_lines(path.read_bytes())]
    names = dict.fromkeys(name for line in lines for name in line if name != MISSING)
    found = {
        name: np.array([_number(line.get(name)) for line in lines], np.float64) for name in names
    }
    return {**found, "step": np.array([line["step"] for line in lines], np.int64)}


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")
