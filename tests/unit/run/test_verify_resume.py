"""What is said of two runs: equal, close or different, and the first thing that differs."""

import json

import numpy as np
import pytest

from palmscale.errors import UserError
from palmscale.run import verify_resume

PRINTS = {"params/a": "0a", "optimizer/b": "0b"}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Writes what two runs left behind, with the second's parts changed; returns the verdicts."""

    def write(path, *, lines, losses):
        folder = path / "checkpoints/2"
        folder.mkdir(parents=True)
        arrays = {"params": {"a": {"fingerprint": "0a"}}, "optimizer": {"b": {"fingerprint": "0b"}}}
        (folder / "MANIFEST.json").write_text(json.dumps({"arrays": arrays}))
        text = "".join(json.dumps({"loss": loss}) + "\n" for loss in losses)
        (path / "metrics.jsonl").write_text(text)
        path.with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def verdicts(*, step_2="batch 2", prints=PRINTS, loss=2.0, param=1.0, bit_equal=True):
        first = {"step": 1, "batch": "batch 1", "key": [1]}
        second = {"step": 2, "batch": "batch 2", "key": [2]}
        write(tmp_path / "straight", lines=[first, second], losses=[3.0, 2.0])
        again = [first, second, {"restored": 2, "arrays": prints}, second | {"batch": step_2}]
        write(tmp_path / "resumed", lines=again, losses=[3.0, loss])
        ends = [np.array([1.0, 4.0], np.float32), np.array([param, 4.0], np.float32)]
        monkeypatch.setattr(verify_resume, "_final_params", lambda *runs: [("kernel", ends)])
        checks = verify_resume.compare(
            tmp_path / "straight", tmp_path / "resumed", bit_equal=bit_equal
        )
        return {check.what: (check.verdict, check.detail) for check in checks}

    return verdicts


def test_runs_that_are_alike_are_equal_in_everything(runs):
    assert {verdict for verdict, _ in runs().values()} == {"equal"}


def test_a_batch_that_differs_when_it_is_read_again_is_named_by_its_step(runs):
    assert runs(step_2="another")["batches"] == ("different", "first at step 2")


def test_a_restored_array_that_is_not_the_saved_one_is_named(runs):
    verdict, detail = runs(prints=PRINTS | {"optimizer/b": "ff"})["restored state"]
    assert verdict == "different" and "optimizer/b, at step 2" in detail


def test_one_bit_of_a_loss_or_a_parameter_is_different_where_equality_is_promised(runs):
    answers = runs(loss=np.nextafter(2.0, 3), param=np.nextafter(np.float32(1), np.float32(2)))
    assert answers["losses"][0] == answers["parameters"][0] == "different"
    assert "first in step 2;" in answers["losses"][1] and "kernel" in answers["parameters"][1]


@pytest.mark.parametrize(("loss", "verdict"), [(2.0001, "close"), (2.1, "different")])
def test_elsewhere_it_is_close_within_the_tolerance_and_the_difference_is_told(runs, loss, verdict):
    found, detail = runs(loss=loss, bit_equal=False)["losses"]
    assert found == verdict and "largest relative difference" in detail


def verify(workdir):
    return verify_resume.verify_resume(
        lambda *given: ["false"], workdir=workdir, environment={}, steps=1, more=1
    )


def test_a_workdir_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "old").touch()
    with pytest.raises(UserError, match="is not empty"):
        verify(tmp_path)


def test_both_runs_are_kept_on_this_machine():
    with pytest.raises(UserError, match="workdir=gs://bucket/check must be a folder of this"):
        verify("gs://bucket/check")


def test_a_run_that_fails_is_named_with_its_exit_code(tmp_path):
    with pytest.raises(UserError, match="a run failed with exit code 1: see .*straight_logs/0"):
        verify(tmp_path / "runs")
