"""A message of the library is completed by the flags and macros that set what it names."""

import argparse

import pytest

from palmscale.cli import how_to_set
from palmscale.cli.config import load

FLAGS = {"workdir": "--workdir", "steps": "--steps"}


@pytest.fixture
def loaded():
    load.load_run("configs/runs/quickstart.gin")
    yield
    load.reset()


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("Training.steps=0 must be at least 1.", " (set Training.steps by --gin.TRAIN_STEPS)"),
        (
            "MeshSpec.data=3 x MeshSpec.model=2 do not fit.",
            " (set MeshSpec.data by --gin.DATA, MeshSpec.model by --gin.MODEL_PARALLEL)",
        ),
        ("TextFiles.files=x matches no file.", " (set TextFiles.files by --gin.TEXT_FILES)"),
        ("PaLM.dim=3 is odd.", ""),  # bound to a number, by its own name
        ("workdir=x is not empty.", " (set workdir by --workdir)"),
        ("--workdir=x is not empty.", ""),
        ("num_steps=3 and a.txt are fine.", ""),
        ("no field at all", ""),
        (
            "to allow it, set Run.allow_changes=('model.remat', 'seed').",
            " (set Run.allow_changes by --gin.ALLOW_CHANGES=\"('model.remat', 'seed')\")",
        ),
    ],
)
def test_fields_and_keywords_are_told_by_how_they_are_set(loaded, message, hint):
    assert how_to_set.hint(message, FLAGS) == hint


def test_without_a_configuration_only_flags_are_told():
    load.reset()
    assert how_to_set.hint("Training.steps and steps=3", FLAGS) == " (set steps by --steps)"


@pytest.mark.parametrize(
    ("command", "code", "message", "line"),
    [
        (
            "train",
            2,
            "Training.steps=0.",
            "Training.steps=0. (set Training.steps by --gin.TRAIN_STEPS)",
        ),
        ("train", 1, "a fault", "a fault; run again with --debug for the traceback"),
        (
            "train",
            130,
            "interrupted: saved step 3",
            "interrupted: saved step 3; to continue from a b, run the same command again",
        ),
        ("eval", 130, "interrupted", "interrupted"),
        ("train", 75, "asked to end", "asked to end"),
        (
            "generate",
            2,
            "first: import_weights('my models/a', 'palm_flax', workdir)",
            "first: palmscale checkpoint import --from=palm_flax --input='my models/a'"
            " --workdir=runs/imported",
        ),
    ],
)
def test_the_line_of_an_error_says_what_to_do_next(command, code, message, line, loaded):
    parser = argparse.Namespace(flags=lambda: FLAGS)
    args = argparse.Namespace(command=command, parser=parser, workdir="a b", debug=False)
    assert how_to_set.explained(args, code, message) == line
