"""What a run tells of itself: written by the process that leads, and by no other."""

from types import SimpleNamespace

from palmscale.cli.reporting import METRICS_FILE, metric_writers
from palmscale.cli.run import Reporting


def write(folder, *, leads, **fields):
    run = SimpleNamespace(reporting=Reporting(**fields))
    writers = metric_writers(run, folder, leads=leads)
    writers.write(1, {"loss": 2.0})
    writers.close()
    return {path.name for path in folder.iterdir()}


def test_the_process_that_leads_writes_what_is_asked_for(tmp_path):
    assert write(tmp_path, leads=True) == {METRICS_FILE}
    assert write(tmp_path, leads=True, tensorboard=True) == {METRICS_FILE, "tensorboard"}


def test_another_process_writes_nothing(tmp_path):
    assert write(tmp_path, leads=False, tensorboard=True) == set()
