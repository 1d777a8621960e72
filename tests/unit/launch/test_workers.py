import dataclasses

import pytest
from tpu_pod import workers
from tpu_pod.cloud import Answer


@pytest.fixture
def replies(gcloud, cloud, options):
    """Returns the replies of two slices: by slice, gcloud's answer and its workers' logs."""

    def of(**slices):
        def answer(words, folder):
            node = words[2]
            told, logs = slices[node.replace("-", "_")]
            for worker, text in logs.items():
                (folder / f"{worker}.log").write_text(text)
            return told

        gcloud(answer)
        two = dataclasses.replace(options, slices=2)
        return workers.everywhere(cloud, two, "true")

    return of


WELL = (Answer(0), {0: "fine\n\nexit 0\n", 1: "fine\n\nexit 0\n"})


def test_each_worker_has_its_own_code_and_lines(replies):
    found = replies(palm_0=WELL, palm_1=(Answer(1), {0: "a\nb\n\nexit 3\n", 1: "fine\n\nexit 0\n"}))
    assert [(r.node, r.worker, r.code, r.last) for r in found] == [
        ("palm-0", 0, 0, "fine"),
        ("palm-0", 1, 0, "fine"),
        ("palm-1", 0, 3, "b"),
        ("palm-1", 1, 0, "fine"),
    ]
    assert workers.failed(found) == ["worker 0 of palm-1: b"] and not workers.unreachable(found)


def test_a_worker_without_an_end_was_not_reached_and_tells_the_error_of_ssh(replies):
    timeout = "ssh: connect to host 10.0.0.2 port 22: Connection timed out\n"
    found = replies(palm_0=WELL, palm_1=(Answer(255), {0: "fine\n\nexit 0\n", 1: timeout}))
    assert workers.unreachable(found) == [
        f"worker 1 of palm-1 cannot be reached: {timeout.strip()}"
    ]
    assert workers.failed(found) == workers.unreachable(found)


@pytest.mark.parametrize("logs", [{}, {0: "fine\n\nexit 0\n"}], ids=["none", "some"])
def test_a_slice_that_gcloud_gave_up_on_is_named_with_its_error(replies, logs):
    told = Answer(1, err="Warning: x\nERROR: (gcloud.compute.tpus) state PREEMPTED\n trace\n")
    found = replies(palm_0=WELL, palm_1=(told, logs))
    assert workers.unreachable(found) == [
        "slice palm-1 cannot be reached: ERROR: (gcloud.compute.tpus) state PREEMPTED"
    ]


def test_workers_are_ordered_by_number(replies):
    logs = {worker: "\nexit 0\n" for worker in (10, 2, 1)}
    assert [r.worker for r in replies(palm_0=WELL, palm_1=(Answer(0), logs))[2:]] == [1, 2, 10]


def test_output_that_gcloud_writes_to_the_folder_none_is_found(gcloud, cloud, options):
    gcloud(lambda words, folder: (folder / "None" / "0.log").write_text("fine\nexit 0\n") and None)
    (reply,) = workers.everywhere(cloud, options, "true")
    assert reply.code == 0 and reply.last == "fine"
