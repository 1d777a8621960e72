"""`palmscale verify-resume` as a person runs it."""

import json

import tiny_run


def verified(tiny, workdir, *flags, **changes):
    """The certificate, and the verdicts by what was compared."""
    command = [flag for flag in tiny(workdir, **changes) if flag != "train"]
    done = tiny_run.run("verify-resume", *command, "--steps=8", "--more=12", *flags)
    certificate = json.loads((workdir / "certificate.json").read_text())
    assert certificate["good"] and "Verified" in done.stderr
    return certificate, {check["what"]: check["verdict"] for check in certificate["checks"]}


def test_on_one_process_everything_is_equal_bit_for_bit(tiny, finished, tmp_path):
    _, verdicts = verified(tiny, tmp_path / "runs")
    assert set(verdicts.values()) == {"equal"}


def test_from_two_processes_to_one_on_another_mesh_numbers_are_close(tiny, finished, tmp_path):
    flags = ["--processes=2", "--resume_processes=1", "--resume_with=SIMULATED_DEVICES=2"]
    flags += ["--resume_with=MODEL_PARALLEL=2", "--resume_with=DATA=1"]
    certificate, verdicts = verified(
        tiny, tmp_path / "runs", *flags, SIMULATED_DEVICES=1, DATA=2, MODEL_PARALLEL=1
    )
    assert certificate["processes"] == [2, 1]
    assert verdicts["batches"] == verdicts["randomness"] == verdicts["restored state"] == "equal"
    assert {verdicts["losses"], verdicts["parameters"]} <= {"equal", "close"}
