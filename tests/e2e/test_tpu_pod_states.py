"""launch/tpu_pod.sh, and each state that a request for TPUs may be in, one look after another."""

import os
import subprocess

import pytest
import tiny_run

SCRIPT = str(tiny_run.CHECKOUT / "launch/tpu_pod.sh")
GCLOUD = """#!/usr/bin/env bash
# Tells the next of the states at each look, the last one for ever; ssh tells what worker.sh does.
line="$*"
echo "$line" >>"$FOLDER/commands"
case $line in
  *failedData*) cat "$FOLDER/reason" ;;
  *tpu-vm\\ describe*) cat "$FOLDER/node" ;;
  *describe*)
    mapfile -t states <"$FOLDER/states"
    looks=$(grep 'resources describe' "$FOLDER/commands" | grep -vc failedData)
    state=${states[looks <= ${#states[@]} ? looks - 1 : ${#states[@]} - 1]}
    case $state in
      gone) echo "ERROR: (gcloud) NOT_FOUND: Resource was not found" >&2 && exit 1 ;;
      denied) echo "ERROR: (gcloud) your login has expired" >&2 && exit 1 ;;
      *) echo "$state" ;;
    esac
    ;;
  *resources\\ delete*) echo READY >"$FOLDER/node" ;;
  *resources\\ create*) [[ -z ${REFUSED-} ]] || { echo "ERROR: $REFUSED" >&2; exit 1; } ;;
  *worker.sh\\ status*) cp "$FOLDER"/workers/*.log "${line##*--output-directory=}" ;;
esac
exit 0
"""


@pytest.fixture
def pod(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "workers").mkdir()
    gcloud = tmp_path / "bin/gcloud"
    gcloud.write_text(GCLOUD)
    gcloud.chmod(0o755)
    env = os.environ | {"PATH": f"{gcloud.parent}:{os.environ['PATH']}", "FOLDER": str(tmp_path)}

    def call(action, states, workers=(), *options, code, node="READY", reason="", **more):
        (tmp_path / "commands").unlink(missing_ok=True)
        (tmp_path / "node").write_text(node)
        (tmp_path / "reason").write_text(reason)
        (tmp_path / "states").write_text("\n".join(states) + "\n")
        for index, (what, exit_code, last) in enumerate(workers):
            line = f"{what}\t{exit_code}\t1\t-\thost{index}\t{last}\n"
            (tmp_path / f"workers/{index}.log").write_text(line)
        place = ["--name=palm", "--zone=z", "--type=v4-8", "--poll=0.1"]
        done = subprocess.run(
            [SCRIPT, action, *place, *options, *(["train"] if action == "run" else [])],
            env=env | more,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        words = [line.split() for line in (tmp_path / "commands").read_text().splitlines()]
        asked = [w[3] for w in words if w[2] == "queued-resources" and w[3] != "describe"]
        return asked, done.stderr

    return call


DONE = [("ended", 0, "Trained")]


@pytest.mark.parametrize(
    ("states", "asked"),
    [
        (["ACTIVE"], []),
        (
            ["gone", "CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
            ["create"],
        ),
        (["SUSPENDED", "gone", "ACTIVE"], ["delete", "create"]),
        (["SUSPENDING", "SUSPENDED", "gone", "ACTIVE"], ["delete", "create"]),
        (["denied", "denied", "ACTIVE"], []),
    ],
    ids=" ".join,
)
def test_up_makes_what_is_not_there_and_waits(pod, states, asked):
    assert pod("up", states, code=0)[0] == asked


def test_a_node_that_was_taken_away_under_an_active_request_is_made_again(pod):
    asked, err = pod("up", ["ACTIVE", "gone", "ACTIVE"], code=0, node="PREEMPTED")
    assert asked == ["delete", "create"] and "palm is PREEMPTED" in err


@pytest.mark.parametrize("end", ["FAILED", "SUSPENDED"])
def test_up_ends_when_its_own_request_does(pod, end):
    states = ["gone", "PROVISIONING", end]
    asked, err = pod("up", states, (), "--attempts=1", code=1, reason="8\tno more capacity")
    assert asked == ["create"] and f"palm is {end}: no more capacity" in err
    assert "--attempts=1" in err


STOCK_OUT = ["PROVISIONING", "FAILED", "gone"]


def test_without_capacity_the_request_is_made_again(pod):
    states = ["gone", *STOCK_OUT, *STOCK_OUT, "ACTIVE"]
    asked, err = pod("up", states, code=0, reason="8\tThere is no more capacity in the zone\n")
    assert asked == ["create", "delete"] * 2 + ["create"]
    assert "no more capacity in the zone; request 2 of 10 follows in 0.1 s" in err
    assert "request 3 of 10 follows in 0.2 s" in err


def test_requests_without_capacity_are_bounded(pod):
    states = ["gone", *STOCK_OUT * 9]
    asked, err = pod("up", states, (), "--attempts=3", "--poll=0.01", code=1)
    assert asked.count("create") == 3 and "gave up after 3 request(s)" in err


@pytest.mark.parametrize("code", ["3", "5", "7", "16"])
def test_a_request_that_fails_for_another_reason_is_not_repeated(pod, code):
    states = ["gone", "FAILED"]
    asked, err = pod("up", states, code=1, reason=f"{code}\tno such network")
    assert asked == ["create"] and "palm is FAILED: no such network; correct the request" in err


def test_a_request_that_gcloud_refuses_ends_up(pod):
    asked, err = pod("up", ["gone"], code=1, REFUSED="(gcloud) no quota")
    assert asked == ["create"] and "no quota" in err
    assert "the request for palm was refused" in err.splitlines()[-1]


@pytest.mark.parametrize("meanwhile", [["gone"], ["DELETING", "gone"]], ids=" ".join)
def test_a_request_deleted_while_it_waits_ends_up(pod, meanwhile):
    asked, err = pod("up", ["gone", "WAITING_FOR_RESOURCES", *meanwhile], code=1)
    assert asked == ["create"] and "was deleted while it waited" in err


@pytest.mark.parametrize("meanwhile", [["gone"], ["DELETING", "gone"]], ids=" ".join)
def test_a_request_deleted_under_a_run_ends_it(pod, meanwhile):
    running = [("running", "-", "step 5")]
    asked, err = pod("run", ["ACTIVE", "ACTIVE", *meanwhile], running, code=1)
    assert asked == [] and "the request for palm was deleted; the run ends" in err


@pytest.mark.parametrize("states", [["ACTIVE", "denied", "ACTIVE"], ["ACTIVE"]], ids=" ".join)
def test_a_look_that_fails_neither_deletes_nor_makes_anything(pod, states):
    asked, err = pod("run", states, DONE * 2, code=0)
    assert asked == [] and "tpu_pod.sh: done" in err
    assert ("cannot tell the state of palm" in err) == ("denied" in states)


@pytest.mark.parametrize("end", [["SUSPENDING", "SUSPENDED"], ["SUSPENDED"]], ids=" ".join)
def test_a_preempted_run_is_made_again(pod, end):
    asked, err = pod("run", ["ACTIVE", *end, *end, "gone", "ACTIVE"], DONE, code=0)
    assert asked.count("create") == 1 and "it is created again" in err and "done" in err


@pytest.mark.parametrize(
    ("codes", "code", "named"),
    [
        ([75, 2, 134], 2, 1),
        ([134, 1, 75], 1, 1),
        ([134, 134, 137], 1, 2),
        ([75, 75], 1, 0),
    ],
)
def test_the_worker_at_fault_is_named_not_those_it_took_along(pod, codes, code, named):
    workers = [("ended", each, f"error: of {index}") for index, each in enumerate(codes)]
    _, err = pod("run", ["ACTIVE"], workers, code=code)
    (line,) = [line for line in err.splitlines() if "exited with code" in line]
    assert line == (
        f"tpu_pod.sh: worker {named} of palm (host{named}) exited with code {codes[named]}: "
        f"error: of {named}"
    )
