import pytest
from tpu_pod.cloud import Answer
from tpu_pod.main import main

PLACE = ["--name=palm", "--zone=z"]
RUNNING = "running\t-\t1\t77\thost0\tstep 5\n\nexit 0\n"
ENDED = "ended\t0\t1\t-\thost0\tTrained\n\nexit 0\n"


@pytest.fixture
def pod(gcloud):
    """Runs an action while the request is in a state and worker 0 has a log; None: out of reach.

    Returns the exit code, and whether the TPUs were deleted.
    """

    def go(*arguments, state="ACTIVE", log=RUNNING):
        def answer(words, folder):
            if words[1] == "describe":
                return Answer(0, "READY" if words[0] == "tpu-vm" else state)
            if words[1] == "ssh" and log is None:
                return Answer(1, err="ERROR: no route to host")
            if words[1] == "ssh":
                (folder / "0.log").write_text(log)

        lines = gcloud(answer)
        code = main([arguments[0], *PLACE, *arguments[1:]])
        return code, any("delete" in line for line in lines)

    return go


@pytest.mark.parametrize(
    ("options", "how", "outcome"),
    [
        ([], {"log": ENDED}, (0, True)),
        ([], {"log": RUNNING}, (2, False)),
        ([], {"log": None}, (2, False)),
        (["--force"], {"log": RUNNING}, (0, True)),
        (["--force"], {"log": None}, (0, True)),
        ([], {"state": "SUSPENDED", "log": None}, (0, True)),
    ],
)
def test_down_deletes_only_what_is_not_at_work(pod, options, how, outcome):
    assert pod("down", *options, **how) == outcome


def test_the_message_of_a_refused_down_says_what_to_do(pod, capsys):
    pod("down")
    (line,) = capsys.readouterr().err.splitlines()
    assert "worker 0 of palm is running a job; 'stop' makes it save first" in line


@pytest.mark.parametrize("action", ["status", "stop"])
def test_a_worker_out_of_reach_is_exit_code_1_and_one_line(pod, capsys, action):
    assert pod(action, log=None) == (1, False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tpu_pod.sh: error: slice palm cannot be reached: ERROR: no route")


def test_a_terminal_that_is_closed_or_interrupted_is_no_traceback(pod, monkeypatch, capsys):
    from tpu_pod import job

    monkeypatch.setattr(job, "status", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert pod("status")[0] == 130
    assert "a job that was started continues" in capsys.readouterr().err
