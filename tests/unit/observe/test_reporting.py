"""What a run reports of itself."""

from palmscale.observe.reporting import (
    METRICS,
    TENSORBOARD,
    Reporting,
    current_names,
    metric_writers,
    throughput,
)


def write(folder, **fields):
    writers = metric_writers(Reporting(**fields), folder)
    writers.write(1, {"loss": 2.0})
    writers.close()
    return {path.name for path in folder.iterdir()}


def test_what_is_asked_for_is_written(tmp_path):
    assert write(tmp_path) == {METRICS}
    assert write(tmp_path, tensorboard=True) == {METRICS, TENSORBOARD}


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
