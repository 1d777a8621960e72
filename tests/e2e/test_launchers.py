"""The files of launch/: clean shell, help that stands for itself, and what the JobSet promises."""

import pathlib
import re
import subprocess
import sys

import pytest
import tiny_run
import yaml

LAUNCH = tiny_run.CHECKOUT / "launch"
SHELL = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.glob("*.sbatch")])


def test_shellcheck_has_nothing_to_say():
    shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
    assert shellcheck.exists(), "pip install -c constraints.txt -e '.[test]' brings shellcheck"
    done = subprocess.run([shellcheck, *SHELL], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert {"local.sh", "slurm.sbatch"} <= {path.name for path in SHELL}


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_each_script_may_be_started_and_passes_bashs_parser(script):
    assert script.stat().st_mode & 0o111, f"chmod +x {script}"
    assert "\nset -u\n" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True, timeout=20)


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_help_shows_how_the_script_is_called(script):
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and script.name in done.stdout
    assert "set -u" not in done.stdout


def test_slurm_is_told_of_the_requeue_the_signal_and_the_end_of_all():
    text = (LAUNCH / "slurm.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.M))
    assert {"requeue", "exclusive"} <= set(options)
    assert options["ntasks-per-node"] == "1" and options["open-mode"] == "append"
    # To the tasks (no B:), and well before the time is over.
    assert re.fullmatch(r"TERM@\d+", options["signal"])
    assert "--kill-on-bad-exit=1" in text and "scontrol requeue" in text


def test_the_jobset_restarts_all_but_never_a_mistake():
    (jobset,) = yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec = jobset["spec"]
    policy = spec["failurePolicy"]
    assert policy["maxRestarts"] >= 10
    actions = {reason: r["action"] for r in policy["rules"] for reason in r["onJobFailureReasons"]}
    assert actions == {"PodFailurePolicy": "FailJobSet", "BackoffLimitExceeded": "RestartJobSet"}
    assert spec["network"]["enableDNSHostnames"] is True

    (slices,) = spec["replicatedJobs"]
    job = slices["template"]["spec"]
    assert job["backoffLimit"] == 0 and job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [2],
    }
    assert pod["restartPolicy"] == "Never"  # Kubernetes asks for it beside a podFailurePolicy.

    # The hosts of a slice are the chips of its topology over the chips of a host.
    selector = pod["nodeSelector"]
    chips = 1
    for length in selector["cloud.google.com/gke-tpu-topology"].split("x"):
        chips *= int(length)
    assert selector["cloud.google.com/gke-tpu-accelerator"].startswith("tpu-")
    of_a_host = container["resources"]["limits"]["google.com/tpu"]
    assert job["completions"] * of_a_host == chips
    assert container["resources"]["requests"]["google.com/tpu"] == of_a_host

    # No shell in between that would keep SIGTERM to itself; and the recipe is one of the tree.
    assert container["command"] == ["palmscale"] and container["args"][0] == "train"
    flags = dict(a.removeprefix("--").split("=", 1) for a in container["args"][1:])
    assert (tiny_run.CHECKOUT / flags["gin_file"]).exists()
    # The workdir is on the volume that all hosts share.
    (volume,), (mount,) = pod["volumes"], container["volumeMounts"]
    assert volume["name"] == mount["name"] and volume["persistentVolumeClaim"]["claimName"]
    assert flags["workdir"].startswith(mount["mountPath"] + "/")
