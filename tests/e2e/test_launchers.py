"""The files of launch/: clean shell, help that stands for itself, and what the JobSet promises."""

import ast
import math
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
    # All of the node's memory and CPUs, whatever the cluster's defaults are.
    assert options["mem"] == "0" and "--cpu-bind=none" in text


def jobset_and_job():
    (jobset,) = yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text())
    (slices,) = jobset["spec"]["replicatedJobs"]
    return jobset["spec"], slices["template"]["spec"]


def what_the_jobset_does(ends):
    """The action after the pods of a job end: exit codes, or "taken" for a disrupted pod.

    As Kubernetes 1.31 and JobSet 0.10 decide: the first rule of the podFailurePolicy that a pod
    matches fails the job and stands in its message; else, one failed pod exceeds backoffLimit 0.
    """
    spec, job = jobset_and_job()
    for index, rule in enumerate(job["podFailurePolicy"]["rules"]):
        assert rule["action"] == "FailJob"
        codes = rule.get("onExitCodes", {}).get("values", [])
        taken = [c["type"] for c in rule.get("onPodConditions", [])] == ["DisruptionTarget"]
        if any(end in codes or (end == "taken" and taken) for end in ends):
            reason = "PodFailurePolicy"
            message = f"Pod ns/palmscale-slice-0-0 matching FailJob rule at index {index}"
            break
    else:
        reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for rule in spec["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns")
        if reason in rule["onJobFailureReasons"]:
            if not patterns or any(re.search(pattern, message) for pattern in patterns):
                return rule["action"]
    return "RestartJobSet"


@pytest.mark.parametrize(
    ("ends", "action"),
    [
        ([2, 75], "FailJobSet"),
        ([2, "taken"], "FailJobSet"),
        (["taken"], "RestartJobSetAndIgnoreMaxRestarts"),
        ([75], "RestartJobSetAndIgnoreMaxRestarts"),
        (["taken", 75, 134], "RestartJobSetAndIgnoreMaxRestarts"),
        ([1], "RestartJobSet"),
        ([137], "RestartJobSet"),
    ],
)
def test_preemptions_do_not_eat_restarts_and_mistakes_are_not_restarted(ends, action):
    assert what_the_jobset_does(ends) == action


def test_the_jobset_runs_a_recipe_on_the_tpus_that_it_is_meant_for():
    (jobset,) = yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec, job = jobset_and_job()
    assert spec["failurePolicy"]["maxRestarts"] >= 10
    assert spec["network"]["enableDNSHostnames"] is True
    assert job["backoffLimit"] == 0 and job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    for rule in job["podFailurePolicy"]["rules"]:
        assert rule.get("onExitCodes", {}).get("containerName") in (None, container["name"])
    assert pod["restartPolicy"] == "Never"  # Kubernetes asks for it beside a podFailurePolicy.

    # No shell in between that would keep SIGTERM to itself; and the recipe is one of the tree.
    assert container["command"] == ["palmscale"] and container["args"][0] == "train"
    flags = dict(a.removeprefix("--").split("=", 1) for a in container["args"][1:])
    recipe = (tiny_run.CHECKOUT / flags["gin_file"]).read_text()
    assert "include 'configs/meshes/tpu" in recipe
    # The hosts of a slice are the chips of its topology over the chips of a host.
    selector = pod["nodeSelector"]
    (generation, dims), *_ = re.findall(r"^TOPOLOGY = '(\w+):([0-9x]+)'", recipe, re.M)
    assert selector["cloud.google.com/gke-tpu-topology"] == dims
    assert selector["cloud.google.com/gke-tpu-accelerator"].startswith(f"tpu-{generation}-")
    of_a_host = container["resources"]["limits"]["google.com/tpu"]
    assert job["completions"] * of_a_host == math.prod(map(int, dims.split("x")))
    assert container["resources"]["requests"]["google.com/tpu"] == of_a_host
    # The workdir and the rows are on the volume that all hosts share.
    assert flags["gin.CACHE_DIRECTORY"].startswith(volume_of(pod, container) + "/")
    assert flags["workdir"].startswith(volume_of(pod, container) + "/")


def volume_of(pod, container):
    """Where the container finds the volume that all hosts share."""
    (volume,), (mount,) = pod["volumes"], container["volumeMounts"]
    assert volume["name"] == mount["name"] and volume["persistentVolumeClaim"]["claimName"]
    return mount["mountPath"]


@pytest.mark.parametrize("path", sorted(LAUNCH.rglob("*.py")), ids=lambda path: path.name)
def test_what_runs_on_ones_own_machine_needs_no_recent_python(path):
    ast.parse(path.read_text(), feature_version=(3, 9))
