import dataclasses

import pytest
from tpu_pod import job
from tpu_pod.cloud import Answer
from tpu_pod.errors import Fault
from tpu_pod.workers import Reply

RUNNING = "running\t-\t1\t77\thost0\tstep 5\n"


@pytest.fixture
def two(options):
    return dataclasses.replace(options, slices=2)


def answering(log):
    """One slice answers with the log, the other cannot be reached."""

    def answer(words, folder):
        if words[2] == "palm-1":
            return Answer(1, err="ERROR: (gcloud) [/usr/bin/ssh] exited with return code [255].\n")
        (folder / "0.log").write_text(log)

    return answer


def test_status_is_a_fault_that_names_the_slice_that_cannot_be_reached(gcloud, cloud, two, capsys):
    gcloud(answering(RUNNING))
    with pytest.raises(Fault, match=r"slice palm-1 cannot be reached: .*return code \[255\]"):
        job.status(cloud, two)
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[1][:4] == ["palm-0", "0", "running", "-"]
    assert table[2][:3] == ["palm-1", "all", "unreachable"]


def test_stop_is_a_fault_if_a_slice_may_be_running_on(gcloud, cloud, two, capsys):
    gcloud(answering("stopped with exit code 75\n"))
    with pytest.raises(Fault, match="slice palm-1 cannot be reached.*'down' would lose"):
        job.stop(cloud, two)
    assert "1 stopped with exit code 75" in capsys.readouterr().out


@pytest.mark.parametrize("code", ["0", "75"])
def test_stop_is_content_with_workers_that_saved(gcloud, cloud, options, code):
    gcloud(answering(f"stopped with exit code {code}\n\nexit 0\n"))
    job.stop(cloud, options)


@pytest.mark.parametrize("end", [" with exit code 1", " with exit code ", "; its supervisor died"])
def test_stop_is_a_fault_if_a_job_ended_without_having_saved(gcloud, cloud, options, end):
    gcloud(answering(f"stopped{end}\n\nexit 0\n"))
    with pytest.raises(Fault, match=f"worker 0 of palm stopped{end}"):
        job.stop(cloud, options)


def test_a_row_has_the_command_and_ignores_what_ssh_says_first():
    lines = ("Warning: Permanently added '1.2.3.4'", RUNNING.strip(), "palmscale\ttrain\ta b\t")
    row = job._row(Reply("palm", 0, 0, lines))
    assert (row.state, row.host, row.last) == ("running", "host0", "step 5")
    assert row.command == ("palmscale", "train", "a b")


def test_a_worker_without_code_is_idle_and_one_without_output_is_not_reached():
    assert job._row(Reply("palm", 0, 0, ())).state == "idle"
    assert job._row(Reply("palm", None, 0, ())).state == "unreachable"
