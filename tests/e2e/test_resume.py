"""A run that is killed, moved, prolonged or changed, and started again by the same command."""

import random
import shutil

import pytest
import tiny_run


def kill_and_finish(command, workdir, moments, seed):
    chance = random.Random(seed)
    killed = [tiny_run.kill_once(command, workdir, moment, chance) for moment in moments]
    tiny_run.run(*command)
    return sum(killed)


def test_killed_at_any_moment_ends_bit_for_bit_equal(tiny, finished, tmp_path):
    command = tiny(tmp_path / "run", SAVE_EVERY_STEPS=2)
    killed = kill_and_finish(command, tmp_path / "run", tiny_run.MOMENTS[:3], seed=0)
    assert killed >= 2
    tiny_run.assert_same_end(tmp_path / "run", finished)


@pytest.mark.long
def test_killed_twenty_five_times_ends_bit_for_bit_equal(tiny, tmp_path):
    longer = {"TRAIN_STEPS": 120, "SAVE_EVERY_STEPS": 3}
    tiny_run.run(*tiny(tmp_path / "undisturbed", **longer))
    moments = [tiny_run.MOMENTS[number % 4] for number in range(25)]
    killed = kill_and_finish(tiny(tmp_path / "run", **longer), tmp_path / "run", moments, seed=1)
    assert killed >= 20
    tiny_run.assert_same_end(tmp_path / "run", tmp_path / "undisturbed")


def without_evaluations(workdir):
    return [
        {name: value for name, value in line.items() if not name.startswith("eval_")}
        for line in tiny_run.metrics(workdir)
    ]


@pytest.mark.long
def test_fifty_of_fifty_disturbed_runs_end_bit_for_bit_equal(tiny, small_disk, tmp_path):
    small = {"SIMULATED_DEVICES": 1, "DATA": 1, "MODEL_PARALLEL": 1, "SAVE_EVERY_STEPS": 3}
    tiny_run.run(*tiny(tmp_path / "undisturbed", **small))
    chance = random.Random(50)
    for number in range(50):
        workdir = tmp_path / str(number)
        moment, fault = chance.choice(tiny_run.MOMENTS), tiny_run.FAULTS[number % 4]
        small_disk(workdir / "checkpoints")
        command = tiny(workdir, **small)
        code = tiny_run.disturb_once(command, workdir, moment, fault, chance)
        left = tiny_run.steps(workdir)
        tiny_run.run(*command)
        if code in (75, 130):  # a run that is asked to end does not evaluate after its last step
            assert tiny_run.saved(workdir) == tiny_run.saved(tmp_path / "undisturbed")
            ours, theirs = map(without_evaluations, (workdir, tmp_path / "undisturbed"))
            assert ours == theirs
        else:
            tiny_run.assert_same_end(workdir, tmp_path / "undisturbed")
        print(f"{number + 1}: {fault} {moment}: exit code {code}, steps {left}; equal", flush=True)


def test_a_finished_run_says_so_and_changes_nothing(tiny, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    done = tiny_run.run(*tiny(workdir))
    (line,) = [line for line in done.stderr.splitlines() if "nothing to do" in line]
    assert "16" in line and "TRAIN_STEPS" in line
    tiny_run.assert_same_end(workdir, finished)
    assert tiny_run.steps(workdir) == tiny_run.steps(finished)


@pytest.mark.parametrize(
    "mesh",
    [
        {"DATA": 2, "MODEL_PARALLEL": 4},
        {"SIMULATED_DEVICES": 1, "DATA": 1, "MODEL_PARALLEL": 1},
    ],
    ids=["2x4", "one device"],
)
def test_goes_on_on_another_mesh_with_the_same_state_and_rows(
    tiny, finished, witness, mesh, tmp_path
):
    workdir = shutil.copytree(finished, tmp_path / "run")
    for step in (16, 12):
        shutil.rmtree(workdir / f"checkpoints/{step}")
    noted = tmp_path / "witness"
    done = tiny_run.run(*tiny(workdir, **mesh), f"--step_log={noted}")
    assert "Resuming after step 8" in done.stderr
    restored, *batches = tiny_run.witnessed(noted)
    arrays, _ = tiny_run.saved(finished, 8)
    assert restored == {"restored": 8, "arrays": tiny_run.fingerprints(arrays)}
    assert [line["step"] for line in batches] == list(range(8, 16))
    assert batches == witness[8:]
    assert tiny_run.saved(workdir)[1] == tiny_run.saved(finished)[1]
    ours, theirs = tiny_run.metrics(workdir), tiny_run.metrics(finished)
    assert ours[:8] == theirs[:8]
    losses = [[line["loss"] for line in lines] for lines in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_more_steps_go_on_and_other_changes_are_refused_unless_named(tiny, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    changes = {
        "seed: 0 -> 1": {"SEED": 1},
        "model.depth: 2 -> 3": {"PaLM.depth": 3},
        "batch_schedule.stages: [[0, 8]] -> [[0, 16]]": {"BATCH_SCHEDULE": "((0, 16),)"},
        "data.seed: 0 -> 1": {"DATA_SEED": 1},
        "optimizer.clip_global_norm: 1.0 -> 0.5": {"build.Adafactor.clip_global_norm": 0.5},
    }
    more = {"TRAIN_STEPS": 20}
    allowed = {**more, "Z_LOSS": 0.0, "ALLOW_CHANGES": "('z_loss',)"}
    *refused, longer, named = tiny_run.run_each(
        [
            *[tiny(workdir, **more, **change) for change in changes.values()],
            tiny(workdir, **more),
            tiny(workdir, **(allowed | {"TRAIN_STEPS": 24})),
        ]
    )
    for difference, answer in zip(changes, refused, strict=True):
        (line,) = [line for line in answer.stderr.splitlines() if "error" in line]
        assert answer.returncode == 2 and difference in line and "ALLOW_CHANGES" in line
    assert longer.returncode == 0 and "Resuming after step 16" in longer.stderr
    assert named.returncode == 0 and "z_loss changed from 0.0001 to 0.0" in named.stderr
    assert [line["step"] for line in tiny_run.metrics(workdir)] == list(range(1, 25))
    assert tiny_run.metrics(workdir)[:16] == tiny_run.metrics(finished)
    assert tiny_run.steps(workdir)[-1] == 24


def test_a_second_job_on_one_workdir_is_refused_and_the_first_goes_on(tiny, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    first = tiny_run.start(*tiny(workdir, TRAIN_STEPS=100_000))
    try:
        while len((workdir / "metrics.jsonl").read_text().splitlines()) < 20:
            assert first.poll() is None
        second = tiny_run.run(*tiny(workdir), code=2)
        assert f"pid {first.pid} on " in second.stderr.splitlines()[-1]
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()


def test_it_saves_by_the_clock_as_well(tiny, tmp_path):
    clock = """
from palmscale.checkpoint.store import CheckpointStore
CheckpointStore.is_save_due = lambda self, every_seconds: every_seconds == 77.0
"""
    periods = {"SAVE_EVERY_STEPS": None, "SAVE_EVERY_SECONDS": 77.0}
    (answer,) = tiny_run.run_each([tiny(tmp_path / "run", **periods)], clock)
    assert answer.returncode == 0, answer.stderr
    assert tiny_run.steps(tmp_path / "run") == [10, 16]
