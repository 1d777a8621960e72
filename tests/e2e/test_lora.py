"""Adapters of another run, trained, killed, used, merged and refused by the command line."""

import hashlib
import json
import random

import pytest
import tiny_job
import tiny_run
from tiny_job import Job

LORA = {"TRAINABLE": "@Lora()", "Lora.rank": 2, "Lora.alpha": 16.0, "WARM_START": "@WarmStart()"}
TEXT = '{"id": 1, "text": "def a(x): return x"}\n'


def contents(folder):
    """SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def lora(tiny, finished):
    """The arguments of a run that trains adapters for the finished one, on 4 x 2 devices."""

    def arguments(workdir, **changes):
        values = LORA | {"WarmStart.workdir": finished, "TRAIN_STEPS": 8, "SAVE_EVERY_STEPS": 2}
        return tiny(workdir, **(values | changes))

    return arguments


@pytest.fixture(scope="module")
def adapters(lora, finished, tmp_path_factory):
    """The workdir of such a run, which nobody disturbed and which left its base untouched."""
    workdir = tmp_path_factory.mktemp("lora") / "run"
    before = contents(finished)
    done = tiny_run.run(*lora(workdir))
    assert "of which 416 train," in done.stderr
    assert contents(finished) == before
    return workdir


@pytest.mark.parametrize(
    "moments",
    [tiny_run.MOMENTS[1:2], pytest.param(tiny_run.MOMENTS, marks=pytest.mark.long)],
    ids=["one", "all"],
)
def test_killed_at_a_moment_adapters_end_bit_for_bit_equal(moments, lora, adapters, tmp_path):
    workdir, chance = tmp_path / "run", random.Random(0)
    command = lora(workdir)
    assert any([tiny_run.kill_once(command, workdir, moment, chance) for moment in moments])
    tiny_run.run(*command)
    tiny_run.assert_same_end(workdir, adapters)


def test_commands_use_adapters_beside_their_base_or_merged(adapters, finished, tmp_path):
    lines = tmp_path / "texts.jsonl"
    lines.write_text(TEXT)
    merged = tmp_path / "merged"
    workdirs = [
        [f"--workdir={finished}", f"--adapter={adapters}"],
        [f"--workdir={adapters}"],
        [f"--workdir={merged}"],
        [f"--workdir={finished}"],
    ]
    scores = [tmp_path / f"{n}.jsonl" for n in range(len(workdirs))]
    prompt = ["--prompt=def ", "--max_tokens=8", "--greedy"]
    answers = tiny_run.run_each(
        [
            ["checkpoint", "merge", f"--workdir={adapters}", f"--to={merged}"],
            *[["score", *where, f"--jsonl={lines}", f"--out={out}"]
              for where, out in zip(workdirs, scores, strict=True)],
            ["generate", *workdirs[0], *prompt],
            ["generate", f"--workdir={merged}", f"--adapter={adapters}", *prompt],
        ]
    )  # fmt: skip
    codes = [answer.returncode for answer in answers]
    assert codes == [0] * 6 + [2], [answer.stderr for answer in answers]
    assert "Merged the adapters of step 8" in answers[0].stdout
    bits = [json.loads(path.read_text())["bits_per_byte"] for path in scores]
    assert bits[0] == bits[1] == pytest.approx(bits[2], rel=1e-5) and bits[0] != bits[3]
    assert answers[5].stdout.startswith("def ")
    (line,) = [line for line in answers[6].stderr.splitlines() if "error" in line]
    assert "no checkpoint in" in line and "has these parameters" in line


@pytest.mark.long
def test_two_hosts_train_and_use_adapters_and_one_is_killed(lora, finished, tmp_path):
    mesh = tiny_job.QUICK | {"SIMULATED_DEVICES": 2, "DATA": 2, "MODEL_PARALLEL": 2}
    reference, workdir = tmp_path / "undisturbed", tmp_path / "run"
    with Job(lora(reference, **mesh), tmp_path / "a", processes=2) as job:
        job.succeed()
    killed = tiny_job.AT_STEP.format(step=5, act="import os; os.kill(os.getpid(), 9)")
    with Job(lora(workdir, **mesh), tmp_path / "b", processes=2, code={1: killed}) as job:
        assert job.wait()[1] == -9
    with Job(lora(workdir, **mesh), tmp_path / "c", processes=2) as job:
        job.succeed()
    tiny_run.assert_same_end(workdir, reference)
    lines = tmp_path / "texts.jsonl"
    lines.write_text(TEXT)
    where = ["score", f"--workdir={finished}", f"--adapter={workdir}", f"--jsonl={lines}"]
    with Job([*where, f"--out={tmp_path / 'two'}"], tmp_path / "d", processes=2) as job:
        job.succeed()
    tiny_run.run(*where, f"--out={tmp_path / 'one'}")
    two, one = (json.loads((tmp_path / name).read_text()) for name in ("two", "one"))
    assert two["bits_per_byte"] == pytest.approx(one["bits_per_byte"], rel=1e-5)
