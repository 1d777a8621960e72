"""What a run reports of itself."""

import pathlib

import pytest

from palmscale.errors import UserError
from palmscale.observe.reporting import (
    METRICS,
    TENSORBOARD,
    Reporting,
    current_names,
    metric_writers,
    throughput,
    where_metrics_lie,
)


def write(folder, **fields):
    writers = metric_writers(Reporting(**fields), folder)
    writers.write(1, {"loss": 2.0})
    writers.close()
    return {path.name for path in folder.iterdir()}


def test_what_is_asked_for_is_written(tmp_path):
    assert write(tmp_path) == {METRICS}
    assert write(tmp_path, tensorboard=True) == {METRICS, TENSORBOARD}


def test_where_metrics_lie_is_said_with_the_commands_that_show_and_upload_them():
    folder = pathlib.Path("runs/my run")
    assert where_metrics_lie(Reporting(), folder) == "Metrics: runs/my run/metrics.jsonl"
    everything = Reporting(tensorboard=True, wandb_project="palm", wandb_mode="offline")
    assert where_metrics_lie(everything, folder).splitlines()[1:] == [
        "TensorBoard: tensorboard --logdir='runs/my run/tensorboard'",
        "Weights & Biases: project palm, offline; wandb sync 'runs/my run/wandb'/offline-run-*",
    ]
    online = where_metrics_lie(Reporting(wandb_project="palm"), folder)
    assert online.endswith("project palm")


def mfu(reporting, kind):
    seconds = iter((0.0, 1.0, 1.0, 1.0))
    counter = throughput(reporting, flops_per_token=1e9, device_kind=kind, devices=2)
    counter._clock = lambda: next(seconds)
    counter._start()
    counter.add(1000)
    return counter.report().get("mfu")


def test_mfu_is_of_the_vendors_peak_unless_the_run_states_one():
    assert mfu(Reporting(), "TPU v4") == 1e12 / (2 * 275e12)
    assert mfu(Reporting(peak_flops_per_device=1e12), "a new chip") == 0.5
    assert mfu(Reporting(), "a new chip") is None


def test_metrics_of_an_earlier_version_are_read_by_todays_names():
    old = {"held_out_loss": 1.0, "held_out_loss/pile": 2.0, "loss": 3.0}
    assert current_names(old) == {"eval_loss": 1.0, "eval_loss/pile": 2.0, "loss": 3.0}


def test_a_sample_without_a_token_is_refused_before_the_run():
    with pytest.raises(UserError, match="sample_tokens=0 must be at least 1; for no sample"):
        Reporting(sample_tokens=0)
