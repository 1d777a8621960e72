import pytest
from tpu_pod.errors import Mistake
from tpu_pod.options import parse

PLACE = ["--name=palm", "--zone=z"]


@pytest.mark.parametrize("place", range(5))
def test_a_dry_run_is_one_wherever_the_word_stands(place):
    words = ["run", *PLACE, "train", "--workdir=w"]
    words.insert(place, "--dry-run")
    action, options = parse(words)
    assert action == "run" and options.dry_run and options.command == ("train", "--workdir=w")


def test_options_end_where_the_command_begins():
    _, options = parse(["run", *PLACE, "--spot", "train", "--name=other", "--spot"])
    assert options.name == "palm" and options.command == ("train", "--name=other", "--spot")


def test_variables_of_the_terminal_are_the_defaults(monkeypatch):
    monkeypatch.setenv("TPU_NAME", "palm")
    monkeypatch.setenv("TPU_ZONE", "z")
    assert parse(["status"])[1].name == "palm"
    assert parse(["status", "--name=other"])[1].name == "other"


def test_each_slice_is_a_node():
    assert parse(["status", *PLACE])[1].nodes == ["palm"]
    assert parse(["status", *PLACE, "--slices=2"])[1].nodes == ["palm-0", "palm-1"]


def test_pauses_between_requests_grow_up_to_a_bound():
    options = parse(["up", *PLACE, "--poll=2"])[1]
    assert [options.pause(n) for n in (0, 1, 2, 10)] == [2, 4, 8, 64]


def test_variables_for_the_job_are_named_not_given(monkeypatch):
    monkeypatch.setenv("KEY", "hidden")
    assert parse(["run", *PLACE, "--env=KEY,HOME", "train"])[1].env == ("KEY", "HOME")
    with pytest.raises(Mistake, match="--env=KEY expects names only") as told:
        parse(["run", *PLACE, "--env=KEY=hidden", "train"])
    assert "hidden" not in str(told.value)
    with pytest.raises(Mistake, match="--env=ABSENT is not set in this terminal"):
        parse(["run", *PLACE, "--env=ABSENT", "train"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--spot", "--reserved"], "exclude each other"),
        (["--spot=yes"], "unknown option --spot=yes"),
        (["--network"], "unknown option --network"),
        (["--command=x"], "unknown option --command=x"),
        (["--poll=-1"], "--poll=-1 is not a number of seconds"),
        (["--attempts=0"], "--attempts=0 is not a whole number of at least 1"),
        (["--slice=1"], "--slice=1 does not exist"),
        (["train"], "up takes no command"),
    ],
)
def test_a_wrong_option_is_named(words, said):
    with pytest.raises(Mistake, match=said):
        parse(["up", *PLACE, *words])
