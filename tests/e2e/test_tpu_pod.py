"""launch/tpu_pod.sh, driven from up to down against a stand-in that really runs the workers."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import gcloud_commands
import pytest
import tiny_job
import tiny_run
from tpu_pod import request

SCRIPT = str(tiny_run.CHECKOUT / "launch/tpu_pod.sh")
GOLDEN = tiny_run.CHECKOUT / "tests/golden/tpu_pod"
PLACE = ["--name=palm", "--zone=us-central2-b", "--project=mine", "--poll=0.5"]


@pytest.fixture
def cloud(tmp_path):
    """The environment in which `gcloud` is the stand-in, with four workers; and its folder."""
    state = tmp_path / "cloud"
    (state / "nodes").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gcloud").symlink_to(
        tiny_run.CHECKOUT / "tests/support/services/gcloud_stand_in.py"
    )
    path = [tmp_path / "bin", pathlib.Path(sys.executable).parent, os.environ["PATH"]]
    environment = os.environ | {
        "PATH": ":".join(map(str, path)),
        "STAND_IN_STATE": str(state),
        "STAND_IN_WORKERS": "4",
    }
    yield environment, state
    if (state / "palm").exists():
        down = [SCRIPT, "down", "--force", *PLACE]
        subprocess.run(down, env=environment, capture_output=True)


def pod(action, *arguments, env, code=0, seconds=240):
    done = subprocess.run(
        [SCRIPT, action, *PLACE, *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def end_processes(folder):
    """Kills every process whose home is the folder, as the stand-in does."""
    code = f"import gcloud_stand_in as g, pathlib; g.end_processes(pathlib.Path({str(folder)!r}))"
    support = tiny_run.CHECKOUT / "tests/support/services"
    environment = os.environ | {"STAND_IN_STATE": "", "STAND_IN_WORKERS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=support, env=environment, check=True)


def commands(state):
    return [json.loads(line) for line in (state / "commands").read_text().splitlines()]


def test_four_workers_train_one_is_preempted_and_the_job_completes(tiny, finished, cloud, tmp_path):
    env, state = cloud
    workdir = tmp_path / "run dir"
    command = tiny(
        workdir,
        **tiny_job.QUICK,
        SIMULATED_DEVICES=1,
        DATA=2,
        MODEL_PARALLEL=2,
        SAVE_EVERY_STEPS=2,
        TRAIN_STEPS=16,
    )
    pod("up", "--type=v4-32", "--spot", env=env)
    job = subprocess.Popen(
        [SCRIPT, "run", *PLACE, "--type=v4-32", "--spot", "--install=true", *map(str, command)],
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 150
        while tiny_job.steps_done(workdir) < 4:
            assert job.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        table = pod("status", env=env).stdout
        assert len([line for line in table.splitlines() if "running" in line]) == 4
        # The machine of worker 2 is taken away.
        end_processes(state / "nodes/palm/2")
        (state / "palm").write_text(json.dumps({"state": "SUSPENDED", "nodes": ["palm"]}))
        _, err = job.communicate(timeout=240)
    finally:
        job.kill()
    assert job.returncode == 0, err
    assert "palm is SUSPENDED; it is created again" in err and "tpu_pod.sh: done" in err
    assert tiny_job.steps_done(workdir) == 16 and tiny_run.steps(workdir)[-1] == 16
    made = [line for line in commands(state) if line[2:4] == ["queued-resources", "create"]]
    assert len(made) == 2
    log = pod("logs", "--worker=0", env=env).stdout
    assert "Resuming after step" in log and "Trained 16 steps" in log
    pod("down", env=env)
    assert not (state / "nodes/palm").exists()


def test_a_mistake_of_the_run_ends_it_with_the_worker_and_its_line(cloud, tmp_path):
    env, _ = cloud
    pod("up", "--type=v4-32", env=env)
    done = pod("run", "--type=v4-32", "--install=true", "trian", "it's", env=env, code=2)
    assert "worker 0 of palm (" in done.stderr
    assert "unknown command trian; did you mean train?" in done.stderr


def test_a_run_is_stopped_from_afar_and_saves(tiny, finished, cloud, tmp_path):
    env = cloud[0] | {"STAND_IN_WORKERS": "2"}
    workdir = tmp_path / "run"
    command = tiny(
        workdir,
        **tiny_job.QUICK,
        SIMULATED_DEVICES=1,
        DATA=2,
        MODEL_PARALLEL=1,
        TRAIN_STEPS=100_000,
    )
    pod("up", "--type=v4-16", env=env)
    job = subprocess.Popen(
        [SCRIPT, "run", *PLACE, "--type=v4-16", "--install=true", *map(str, command)],
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 120
        while tiny_job.steps_done(workdir) < 3:
            assert job.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        done = pod("run", "--type=v4-16", "train", "--workdir=another", env=env, code=2)
        assert "is running another command: palmscale train" in done.stderr
        assert "nothing was copied" in done.stderr
        assert "'down --force'" in pod("down", env=env, code=2).stderr
        assert job.poll() is None
        told = pod("stop", env=env).stdout
        assert "2 stopped with exit code 75" in " ".join(told.split())
        job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == 1
    assert tiny_run.steps(workdir)[-1] == tiny_job.steps_done(workdir)


def test_dry_run_prints_each_command_and_does_nothing(cloud):
    env, state = cloud
    options = ["--type=v4-32", "--slices=2", "--spot", "--network=n", "--subnetwork=s"]
    done = pod("run", "--dry-run", *options, "train", "--workdir=gs://b/a b", env=env)
    lines = done.stdout.splitlines()
    assert not (state / "commands").exists()
    assert any(
        "queued-resources create palm" in line and "--node-count=2" in line for line in lines
    )
    assert sum("tpu-vm scp" in line for line in lines) == 2
    assert all(line.startswith("gcloud ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "unknown action rnu"),
        (["run", "--name=A b", "--zone=z", "train"], "--name='A b'"),
        (["run", "--name=a", "train"], "--zone is missing"),
        (["up", "--name=a", "--zone=z"], "--type is missing"),
        (["run", "--name=a", "--zone=z", "--zoen=b"], "unknown option --zoen=b"),
        (["run", "--name=a", "--zone=z"], "no command"),
        (["run", "--name=a", "--zone=z", "--slices=0", "train"], "--slices=0"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, said, cloud):
    done = subprocess.run([SCRIPT, *arguments], env=cloud[0], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.splitlines()) == 1


ACTIONS = {
    "up": ["up", "--type=v5e-256"],
    "up_with_all_flags": [
        "up", "--type=v4:4x4x8", "--slices=2", "--spot", "--network=n", "--subnetwork=s",
        "--internal-ips", "--service-account=a@b.iam.gserviceaccount.com", "--labels=team=a,run=b",
    ],
    "up_reserved": ["up", "--type=v5p:4x4x8", "--reserved", "--runtime=mine"],
    "run": ["run", "--type=v6e-8", "--slices=2", "--env=HOME", "train", "--workdir=gs://b/a b"],
    "status": ["status"],
    "logs": ["logs", "--slices=2", "--slice=1", "--worker=3"],
    "logs_follow": ["logs", "--follow"],
    "stop": ["stop", "--slices=2"],
    "down": ["down"],
    "down_force": ["down", "--force"],
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIONS)
def test_a_dry_run_prints_the_golden_commands(name, cloud):
    action, *options = ACTIONS[name]
    done = pod(action, "--dry-run", *options, env=cloud[0])
    assert "started" not in done.stdout + done.stderr and not (cloud[1] / "commands").exists()
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(done.stdout)
    assert done.stdout == golden.read_text()


@pytest.mark.parametrize("name", [name for name in ACTIONS if name.startswith("up")])
def test_the_request_that_is_sent_is_the_golden_one(name, cloud):
    env, state = cloud
    pod(*ACTIONS[name], env=env)
    (sent,) = [line for line in commands(state) if "create" in line]
    golden = (GOLDEN / f"{name}.txt").read_text().splitlines()
    assert shlex.join(["gcloud", *sent]) == golden[-1]


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is absent")
def test_each_golden_command_passes_gclouds_own_parser(tmp_path):
    texts = [path.read_text() for path in GOLDEN.glob("*.txt")]
    lines = {line for text in texts for line in text.splitlines()}
    # Asked for after a failure alone.
    asked = ["queued-resources", "describe", "palm", "--zone=z", "--project=p", request._REASON]
    lines.add(shlex.join(["gcloud", "compute", "tpus", *asked]))
    assert len(lines) >= 12 and all(line.startswith("gcloud ") for line in lines)
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(ACTIONS)
    assert gcloud_commands.refused(lines, tmp_path) == []
    assert gcloud_commands.refused(["gcloud compute tpus tpu-vm ssh a --zoen=b"], tmp_path)


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is absent")
def test_gclouds_own_ssh_writes_the_output_of_each_worker_where_it_is_looked_for(tmp_path):
    (tmp_path / "None").symlink_to(".")
    gcloud_commands.ssh_to_two_workers("echo hello; exit 3", tmp_path)
    assert [(tmp_path / f"{worker}.log").read_text() for worker in (0, 1)] == ["hello\n"] * 2
