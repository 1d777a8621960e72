"""Runs whose workdir is in a bucket, by real processes: killed, damaged, refused, resumed."""

import json
import random
import shutil
import time

import pytest
import tiny_job
import tiny_run

from palmscale.storage.place import place

# How long a job that was killed keeps the workdir, besides.
HELD = {"HEARTBEAT_SECONDS": 4}


@pytest.fixture(scope="module")
def kept(_object_store_port, tiny, tmp_path_factory):
    """A bucket with a run at `kept`, which nobody disturbed; not to be written to."""
    import object_store

    bucket = object_store.made(*_object_store_port, "with-a-finished-run")
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in bucket.environment.items():
            patch.setenv(variable, value)
        tiny_run.run(*tiny(f"{bucket.url}/kept"))
    return bucket


@pytest.fixture
def copied(kept, bucket):
    """The workdir of a copy of that run, in a bucket of the test's own."""
    source = place(f"{kept.url}/kept")
    for path in source.rglob("*"):
        path.copy_to(place(bucket.url) / "run" / path.relative_to(source).as_posix())
    return f"{bucket.url}/run"


def run_each(bucket, *commands, code="pass"):
    return tiny_run.run_each(commands, code)


def equal_at_the_end(bucket, reference, folder):
    workdir = bucket.download("run", folder)
    tiny_run.assert_same_end(workdir, reference)
    return workdir


def killed_once(command, bucket, moment, chance):
    """Starts the run and kills it at the moment; whether it was still running."""
    with open(bucket.folder.parent / "silent", "ab") as silent:
        process = tiny_run.start(*command, stdout=silent, stderr=silent)
    checkpoints = bucket.folder / "run/checkpoints"

    def having(name):
        return {path.parent.name for path in checkpoints.glob(f"*/{name}")}

    before, end = having("VERIFIED"), time.monotonic() + 60

    def arrived():
        match moment:
            case "after a save":
                return having("VERIFIED") - before
            case "while Orbax writes":
                return having("*") - having("commit_success.txt") - before
            case "between Orbax's commit and VERIFIED":
                return having("commit_success.txt") - having("VERIFIED") - before
            case "while a step is deleted":
                return having("*") & before - having("VERIFIED")

    while process.poll() is None and not arrived() and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(chance.random() * (1.0 if moment == "after a save" else 0.05))
    process.kill()
    return process.wait() == -9


MOMENTS = (
    "after a save",
    "between Orbax's commit and VERIFIED",
    "while a step is deleted",
    "while Orbax writes",
)


@pytest.mark.parametrize("rounds", [3, pytest.param(16, marks=pytest.mark.long)])
def test_killed_at_any_moment_ends_bit_for_bit_equal_to_a_run_on_a_disk(
    rounds, tiny, finished, bucket, tmp_path
):
    more = {} if rounds == 3 else {"TRAIN_STEPS": 48}
    if more:
        finished = tmp_path / "undisturbed"
        tiny_run.run(*tiny(finished, **more))
    # One step is kept, and the best: each save deletes one.
    command = tiny(f"{bucket.url}/run", **(HELD | more | {"KEEP_LATEST": 1, "SAVE_EVERY_STEPS": 2}))
    chance = random.Random(rounds)
    outcomes = [
        killed_once(command, bucket, MOMENTS[number % 4], chance) for number in range(rounds)
    ]
    assert sum(outcomes) >= rounds - 1
    said = tiny_run.run(*command).stderr
    assert "has been silent for more than 4 s; taking over its lease" in said
    assert "Resuming after step" in said
    workdir = equal_at_the_end(bucket, finished, tmp_path / "run")
    # What the kills left of deletions and saves is gone; the best step is the last.
    kept = {name.partition("/")[0] for name in bucket.names("run/checkpoints")}
    assert kept == {str(tiny_run.steps(finished)[-1])}
    assert not (workdir / "LEASE").exists()


def test_two_processes_killed_and_resumed_end_equal_to_two_on_a_disk(tiny, bucket, tmp_path):
    pair = tiny_job.PAIR | {"SAVE_EVERY_STEPS": 4}
    with tiny_job.Job(tiny(tmp_path / "disk", **pair), tmp_path / "logs", processes=2) as job:
        job.succeed()
    command = tiny(f"{bucket.url}/run", **pair)
    chance = random.Random(2)
    with tiny_job.Job(command, tmp_path / "first", processes=2) as job:
        job.when(lambda: "checkpoints/4/VERIFIED" in bucket.names("run"))
        time.sleep(chance.random())
        victim = chance.randrange(2)
        job.send(victim)
        assert job.wait(60)[victim] == -9
    with tiny_job.Job(command, tmp_path / "second", processes=2) as job:
        job.succeed()
        assert "taking over its lease" in job.said(0) and "Resuming after step" in job.said(0)
    equal_at_the_end(bucket, tmp_path / "disk", tmp_path / "run")
    manifest = json.loads((tmp_path / "run/checkpoints/16/MANIFEST.json").read_text())
    assert any("ocdbt.process_1" in name for name in manifest["files"])


def test_damage_is_told_and_the_last_good_step_is_used(copied, bucket, tiny, finished, tmp_path):
    root = place(copied) / "checkpoints"
    data = max((root / "16").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(bytes(content))
    (gone,) = [path for path in (root / "12/params/d").iterdir()][:1]
    gone.unlink()
    verify = ["checkpoint", "verify", f"--workdir={copied}"]
    damaged, good = run_each(bucket, verify, [*verify, "--checkpoint=8"])
    assert (damaged.returncode, good.returncode) == (1, 0), damaged.stderr
    for words in (f"{data.relative_to(root / '16')} is damaged", f"{gone.name} is missing"):
        assert words in damaged.stdout
    (resumed,) = run_each(bucket, tiny(copied, **HELD))
    assert resumed.returncode == 0, resumed.stderr
    for words in ("step 16 is not used", "step 12 is not used", "Resuming after step 8"):
        assert words in resumed.stderr
    equal_at_the_end(bucket, finished, tmp_path / "run")


def test_a_step_without_its_marker_is_never_used(copied, bucket, tiny, finished, tmp_path):
    (place(copied) / "checkpoints/16/VERIFIED").unlink()
    listed, verified, resumed, again = run_each(
        bucket,
        ["checkpoint", "ls", f"--workdir={copied}"],
        ["checkpoint", "verify", f"--workdir={copied}"],
        tiny(copied, **HELD),
        ["checkpoint", "verify", f"--workdir={copied}"],
    )
    assert "unmarked" in listed.stdout and "intact; resume the run" in verified.stdout
    assert "step 16 was never finished" in resumed.stderr
    assert "Resuming after step 12" in resumed.stderr and resumed.returncode == 0
    assert again.returncode == 0 and "unfinished" not in again.stdout
    equal_at_the_end(bucket, finished, tmp_path / "run")


def test_a_second_job_is_refused_while_the_first_holds_the_workdir(copied, bucket, tiny):
    first = tiny_run.start(
        *tiny(copied, TRAIN_STEPS=100_000, SAVE_EVERY_STEPS=100_000, HEARTBEAT_SECONDS=20)
    )
    try:
        while not (bucket.folder / "run/LEASE").exists():
            assert first.poll() is None
            time.sleep(0.05)
        (second,) = run_each(bucket, tiny(copied))
        assert second.returncode == 2
        line = second.stderr.splitlines()[-1]
        assert f"in use by another job (pid {first.pid} on " in line and "stop that job" in line
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()


def test_the_commands_say_of_a_bucket_what_they_say_of_a_folder(kept, bucket, finished, tmp_path):
    there, other = f"{kept.url}/kept", tmp_path / "run"
    shutil.copytree(finished, other)

    def commands(workdir):
        return [
            ["checkpoint", "show", f"--workdir={workdir}", "--config"],
            ["checkpoint", "verify", f"--workdir={workdir}"],
            ["eval", f"--workdir={workdir}", "--checkpoint=best"],
            ["generate", f"--workdir={workdir}", "--greedy", "--max_tokens=8", "--prompt=def "],
        ]

    # gin's lines differ by what differs in the two runs.
    for ours, theirs in zip(
        run_each(bucket, *commands(there)), run_each(bucket, *commands(other)), strict=True
    ):
        assert ours.returncode == theirs.returncode == 0, ours.stderr
        left, right = (
            [line for line in text.splitlines() if "seconds" not in line and "KiB" not in line]
            for text in (ours.stdout, theirs.stdout)
        )
        assert left == right
    listed, equal, steps, missing = run_each(
        bucket,
        ["checkpoint", "ls", f"--workdir={there}"],
        ["checkpoint", "diff", there, f"{other}"],
        ["checkpoint", "diff", f"{there}@8", f"{there}@16"],
        ["checkpoint", "ls", f"--workdir={kept.url}/nothing"],
    )
    assert listed.stdout.count("verified") == 3 and listed.returncode == 0
    assert "All arrays are equal." in equal.stdout
    assert steps.returncode == 1 and "arrays differ" in steps.stdout
    assert missing.returncode == 2 and "there is no run in gs://" in missing.stderr


def test_pins_and_the_keep_policy_hold_and_a_warm_start_reads_the_bucket(
    copied, bucket, tiny, tmp_path
):
    root = place(copied) / "checkpoints"
    # A deletion that was interrupted: nothing of it counts, and the next save removes it.
    (root / "12/VERIFIED").unlink()
    longer = tiny(copied, **(HELD | {"TRAIN_STEPS": 24, "KEEP_LATEST": 1, "KEEP_BEST": 0}))
    warm = {
        "WARM_START": "@warm_start.WarmStart()",
        "warm_start.WarmStart.workdir": f"'{copied}'",
        "TRAIN_STEPS": 1,
    }
    pin, run, unpin, warmed = run_each(
        bucket,
        ["checkpoint", "pin", f"--workdir={copied}", "--checkpoint=8"],
        longer,
        ["checkpoint", "unpin", f"--workdir={copied}", "--checkpoint=8"],
        tiny(tmp_path / "warm", **warm),
    )
    assert pin.returncode == run.returncode == unpin.returncode == 0, run.stderr
    assert [path.name for path in root.iterdir()] == ["24", "8"]
    assert not (root / "8/PINNED").exists() and (root / "8/VERIFIED").exists()
    assert warmed.returncode == 0, warmed.stderr
    assert f"arrays of parameters from step 24 of {copied}" in warmed.stderr


# Breaks the store before the save of step 8, and mends it before that of another.
DISTURBED = """
from palmscale.checkpoint.store import CheckpointStore
def disturbed(real):
    def save(self, step, **arguments):
        self._finish_pending()
        if step == 8:
            {fault}
        if step == {mend_at}:
            {mend}
        real(self, step, **arguments)
    return save
CheckpointStore.save = disturbed(CheckpointStore.save)
CheckpointStore.save_last = disturbed(CheckpointStore.save_last)
"""


def disturbed(bucket, command, mend_at=16, **fault):
    code = DISTURBED.format(fault=bucket.fault(**fault), mend=bucket.mended, mend_at=mend_at)
    return tiny_run.run_each([command], code)[0]


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 403, "method": "POST|PUT", "path": "/d/"},  # of the arrays' data alone
        pytest.param({"status": 403, "method": "POST|PUT"}, marks=pytest.mark.long),
        pytest.param({"status": 503, "path": "/d/"}, marks=pytest.mark.long),
    ],
)
def test_a_run_outlives_a_store_that_refuses_for_a_while(fault, bucket, tiny, finished, tmp_path):
    answer = disturbed(bucket, tiny(f"{bucket.url}/run"), **fault)
    assert answer.returncode == 0, answer.stderr
    warnings = [line for line in answer.stderr.splitlines() if "was not saved" in line]
    for step, warning in zip((8, 12), warnings, strict=True):
        assert f"step {step} was not saved: " in warning
        assert "the last good checkpoint is step 4. The run continues" in warning
    workdir = equal_at_the_end(bucket, finished, tmp_path / "run")
    assert tiny_run.steps(workdir) == [4, 16]


def test_a_run_outlives_a_store_that_does_not_even_show_its_steps(bucket, tiny, finished, tmp_path):
    answer = disturbed(bucket, tiny(f"{bucket.url}/run"), status=403, method=".*")
    assert answer.returncode == 0, answer.stderr
    for step in (8, 12):
        assert f"the checkpoint of step {step} was not saved: " in answer.stderr
    assert "earlier checkpoints cannot be listed at the moment. The run continues" in answer.stderr
    workdir = equal_at_the_end(bucket, finished, tmp_path / "run")
    assert tiny_run.steps(workdir) == [4, 16]


def test_a_few_answers_that_it_is_overloaded_are_not_even_noticed(bucket, tiny, finished, tmp_path):
    answer = disturbed(bucket, tiny(f"{bucket.url}/run"), status=503, times=2)
    assert answer.returncode == 0 and "was not saved" not in answer.stderr, answer.stderr
    workdir = equal_at_the_end(bucket, finished, tmp_path / "run")
    assert tiny_run.steps(workdir) == tiny_run.steps(finished)


def test_a_run_ends_with_the_reason_once_too_many_saves_have_failed_and_goes_on_later(
    bucket, tiny, finished, tmp_path
):
    command = tiny(f"{bucket.url}/run", MAX_FAILED_SAVES=1)
    answer = disturbed(bucket, command, mend_at=-1, status=403, method="POST|PUT")
    *_, error = answer.stderr.splitlines()
    assert answer.returncode == 1 and "palmscale: error:" in error
    for part in ("step 12 was not saved: ", "Permission denied", "the last good checkpoint",
                 "step 4. 2 consecutive save(s) failed", "Retries.failures=1"):  # fmt: skip
        assert part in error
    exec(bucket.mended)
    (answer,) = tiny_run.run_each([command])
    assert answer.returncode == 0 and "Resuming after step 4" in answer.stderr, answer.stderr
    equal_at_the_end(bucket, finished, tmp_path / "run")


def test_a_bucket_that_is_not_there_or_not_ones_own_is_one_line(bucket, tiny):
    missing, unlisted = run_each(
        bucket,
        tiny("gs://no-such-bucket/run"),
        ["checkpoint", "ls", "--workdir=gs://no-such-bucket/run"],
    )
    with bucket.failing(status=403):
        (denied,) = run_each(bucket, tiny(f"{bucket.url}/run"))
    for answer, words in (
        (missing, "the bucket gs://no-such-bucket does not exist; create it"),
        (unlisted, "there is no run in gs://no-such-bucket/run"),
        (denied, "Permission denied"),
    ):
        assert answer.returncode == 2
        (line,) = [line for line in answer.stderr.splitlines() if "error:" in line]
        assert words in line and line == answer.stderr.splitlines()[-1]
