import dataclasses
import pathlib

import pytest
from tpu_pod import ship
from tpu_pod.accelerators import tpu_type
from tpu_pod.cloud import Answer
from tpu_pod.errors import Fault, Mistake
from tpu_pod.run import run

OURS = ("train", "--workdir=w")


@pytest.fixture
def watched(gcloud, cloud, options, monkeypatch):
    """Runs OURS; each look of the workers sees the next of the given tables, the last for ever.

    A table is {worker: (state, code, command or ())}; None: the slice cannot be reached. Returns
    the verbs that gcloud was called with, without the looks.
    """
    monkeypatch.setattr(ship, "code_files", lambda root, include: ([], []))

    def go(*tables, state="ACTIVE", start="started", kind="v4-8"):
        looks = iter(tables)
        last = [None]

        def answer(words, folder):
            text = words[-2] if words[1] == "ssh" else ""
            if words[1] == "describe":
                return Answer(0, state if words[0] == "queued-resources" else "READY")
            if "worker.sh start" in text:
                (folder / "0.log").write_text(f"{start}\n\nexit 0\n")
            if "worker.sh status; [" not in text:
                return
            last[0] = next(looks, last[0])
            if last[0] is None:
                return Answer(1, err="ERROR: no route to host")
            for worker, (what, code, command) in last[0].items():
                row = f"{what}\t{code}\t1\t-\thost{worker}\tlast of {worker}\n"
                started = "".join(f"{word}\t" for word in command)
                (folder / f"{worker}.log").write_text(f"{row}{started}\n\nexit 0\n")

        lines = gcloud(answer)
        asked = dataclasses.replace(options, command=OURS)
        try:
            run(cloud, asked, kind and tpu_type(kind), pathlib.Path("."))
        finally:
            go.did = [_verb(line) for line in lines if _verb(line) not in ("describe", "look")]

    return go


def _verb(line):
    text = " ".join(line)
    for verb, mark in (("look", "status; ["), ("start", "sh start"), ("install", "tar -x")):
        if mark in text:
            return verb
    return "stop" if "worker.sh stop" in text else line[4]


NONE = {0: ("idle", "-", ()), 1: ("idle", "-", ())}
RUNNING = {worker: ("running", "-", ("palmscale", *OURS)) for worker in (0, 1)}
DONE = {worker: ("ended", "0", ("palmscale", *OURS)) for worker in (0, 1)}


def test_a_run_copies_installs_starts_and_watches(watched, capsys):
    watched(NONE, RUNNING, DONE)
    assert watched.did == ["scp", "install", "start"]
    assert capsys.readouterr().err.endswith("tpu_pod.sh: done\n")


def test_a_run_that_cannot_request_tpus_again_says_so_at_the_start(watched, capsys):
    watched(NONE, RUNNING, DONE, kind=None)
    assert capsys.readouterr().err.count("without --type, the TPUs are not requested again") == 1
    with pytest.raises(Mistake, match="--type is missing"):
        watched(NONE, state="SUSPENDED", kind=None)


def test_the_same_command_is_watched_without_a_copy(watched):
    watched(RUNNING, RUNNING, DONE)
    assert watched.did == []


def test_another_command_than_the_one_running_is_refused_before_anything_is_copied(watched):
    other = {1: ("running", "-", ("palmscale", "train", "--workdir=v"))}
    with pytest.raises(Mistake, match="worker 1 of palm .* another command: palmscale train --w"):
        watched(RUNNING | other)
    assert watched.did == []


def test_another_command_that_was_started_meanwhile_is_named(watched):
    ours = " ".join(("palmscale", *OURS))
    watched(NONE, DONE, start=f"already running: {ours} ")
    with pytest.raises(Mistake, match="worker 0 of palm is already running: palmscale eval"):
        watched(NONE, DONE, start="already running: palmscale eval ")


def test_a_slice_that_cannot_be_reached_is_a_fault_before_anything_is_copied(watched):
    with pytest.raises(Fault, match="palm cannot be reached: ERROR: no route.*nothing was copied"):
        watched(None)
    assert watched.did == []


def test_a_slice_that_cannot_be_reached_for_a_while_is_said_once_and_waited_for(watched, capsys):
    watched(NONE, RUNNING, None, None, RUNNING, DONE)
    assert capsys.readouterr().err.count("the job may still be running") == 1


def test_a_slice_that_stays_out_of_reach_is_a_fault_and_nothing_is_deleted(watched):
    with pytest.raises(Fault, match="cannot be reached.*may still be running"):
        watched(NONE, RUNNING, None)
    assert watched.did == ["scp", "install", "start"]


def test_workers_that_are_done_do_not_end_a_run_of_which_a_slice_is_out_of_reach(watched):
    watched(NONE, {0: DONE[0], 1: RUNNING[1]}, None, DONE)
    assert watched.did == ["scp", "install", "start"]


def test_a_worker_that_lost_its_job_gets_it_again(watched):
    lost = RUNNING | {1: ("idle", "-", ())}
    watched(NONE, RUNNING, lost, lost, RUNNING, DONE)
    assert watched.did == ["scp", "install", "start"] * 2


def test_a_user_error_stops_the_others(watched, capsys):
    with pytest.raises(Mistake):
        watched(NONE, RUNNING | {1: ("ended", "2", ())})
    assert watched.did[-1] == "stop"
    assert "worker 1 of palm (host1) exited with code 2: last of 1" in capsys.readouterr().err
