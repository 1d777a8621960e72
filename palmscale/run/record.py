"""Metrics that are measured after training, beside those that the run wrote at the same step."""

import os
from collections.abc import Mapping

from palmscale.checkpoint.lease import Lease
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.observe.metric_lines import with_metrics
from palmscale.observe.reporting import METRICS, Reporting, requested_writers
from palmscale.observe.writers import Writers
from palmscale.run.workdir import Workdir, own_folder
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place


def record(workdir: Workdir, step: int, metrics: Mapping[str, float], reporting: Reporting) -> None:
    """Adds metrics of a step to metrics.jsonl and to the run's metric writers.

    What cannot be written, because a job is training in the folder or it is read-only, is warned
    of: the metrics are on the terminal as well.

    Args:
        workdir: the run's folder.
        step: at which the checkpoint was saved.
        metrics: by name.
        reporting: which metric writers the run has.
    """
    try:
        folder = own_folder(workdir)
        with Lease(folder):
            path = folder / METRICS
            content = path.read_bytes() if path.is_file() else b""
            _replace(path, with_metrics(content, step, metrics))
    except (UserError, OSError) as error:
        log.warn(f"{METRICS} does not get the metrics of step {step:,}: {error}")
        return
    try:
        writers = Writers(requested_writers(reporting, folder))
    except UserError as error:
        log.warn(f"the metric writers do not get the metrics of step {step:,}: {error}")
        return
    writers.write(step, metrics)
    writers.close()


def _replace(path: Place, content: bytes) -> None:
    if isinstance(path, ObjectPath):
        path.write_bytes(content)
        return
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
