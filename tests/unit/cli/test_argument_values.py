import argparse

import pytest

from palmscale.cli.argument_values import (
    at_least,
    checkpoint,
    checkpoint_or_all,
    path,
    share,
    workdir,
)


@pytest.mark.parametrize(
    ("convert", "text", "value"),
    [
        (checkpoint, "best", "best"),
        (checkpoint, "latest", "latest"),
        (checkpoint, "007", 7),
        (checkpoint_or_all, "all", "all"),
        (at_least(int, 1), "1", 1),
        (at_least(float, 0), "0.5", 0.5),
        (share, "1", 1.0),
        (workdir, "runs/a", "runs/a"),
        (workdir, "gs://bucket/run", "gs://bucket/run"),
        (workdir, "gs://bucket.of-mine_1/runs/a/", "gs://bucket.of-mine_1/runs/a/"),
        (workdir, "gs://bucket", "gs://bucket"),
    ],
)
def test_text_becomes_the_value(convert, text, value):
    assert convert(text) == value and type(convert(text)) is type(value)


@pytest.mark.parametrize(
    ("convert", "text", "answer"),
    [
        (checkpoint, "all", "give latest, best or a step number"),
        (checkpoint_or_all, "-3", "give all, latest, best or a step number"),
        (at_least(int, 1), "0", "give 1 or more"),
        (at_least(int, 1), "one", "not a number of type int"),
        (at_least(int, 1, 9), "10", "give 1 to 9"),
        (at_least(float, 0), "inf", "out of range"),
        (at_least(float, 0), "nan", "out of range"),
        (workdir, "s3://bucket/run", "s3://bucket/run is not a folder or bucket for a run"),
        (workdir, "gs://", "give a folder that all hosts see, or gs://BUCKET/PATH"),
        (workdir, "gs://b/run", "not a folder or bucket for a run"),
        (workdir, "gs://bucket//run", "not a folder or bucket for a run"),
        (share, "0", "more than 0 and at most 1"),
    ],
)
def test_any_other_is_refused_with_what_to_give(convert, text, answer):
    with pytest.raises(argparse.ArgumentTypeError, match=answer):
        convert(text)


def test_a_path_may_begin_with_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path("~/a") == workdir("~/a") == f"{tmp_path}/a"
    assert path("gs://bucket/~/a") == "gs://bucket/~/a"
    with pytest.raises(argparse.ArgumentTypeError, match="the home folder is unknown; set HOME"):
        path("~no-such-user/a")
    with pytest.raises(argparse.ArgumentTypeError, match="is empty; give a path"):
        workdir("")
