"""One line for every setting, and the setting that a word stands for."""

import inspect

import pytest

from palmscale import PaLM
from palmscale.run import stable_names
from palmscale.run.meanings import _OTHER_WORDS, closest, meaning

FIELDS = {
    f"{name}.{parameter}": (target, parameter)
    for name in stable_names.MODULES
    for target in [stable_names.find(name)]
    for parameter in inspect.signature(target).parameters
    if not (parameter in ("name", "parent") and hasattr(target, "apply"))
}


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_that_a_gin_file_may_set_is_explained_in_a_line(field):
    line = meaning(*FIELDS[field])
    assert line and "\n" not in line and not line.endswith(".")


def test_the_line_is_the_first_sentence_of_the_docstrings_entry():
    assert meaning(PaLM, "norm_scale_offset") == "a stored scale s acts as s + offset"
    assert meaning(PaLM, "no_such_field") == ""


class Base:
    """A class.

    Attributes:
        first, second: two at a time, e.g. here. More.
    """


class Derived(Base):
    """Without a section of its own."""


def bare(x):
    pass


def test_a_field_may_be_documented_by_a_base_class_and_need_not_be():
    assert meaning(Derived, "second") == "two at a time, e.g. here"
    assert meaning(bare, "x") == ""


def test_other_words_are_of_fields_that_exist():
    assert set(_OTHER_WORDS) <= set(FIELDS)


SETTINGS = {
    "PaLM.dim": ("PaLM.dim",),
    "PaLM.depth": ("PaLM.depth",),
    "TRAIN_STEPS": ("Training.steps", "WarmupCosine.total_steps"),
    "LEARNING_RATE": ("InverseSqrt.peak",),
    "BATCH_SCHEDULE": ("BatchSchedule.stages",),
    "SEQUENCE_LENGTH": ("Data.sequence_length",),
    "my_model.GPT.width": ("my_model.GPT.width",),
}


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("DIM", "PaLM.dim"),
        ("hidden_size", "PaLM.dim"),
        ("NUM_LAYERS", "PaLM.depth"),
        ("N_LAYER", "PaLM.depth"),
        ("EPOCHS", "TRAIN_STEPS"),
        ("TRAIN_STEP", "TRAIN_STEPS"),
        ("LR", "LEARNING_RATE"),
        ("BATCH_SIZE", "BATCH_SCHEDULE"),
        ("BLOCK_SIZE", "SEQUENCE_LENGTH"),
        ("my_model.GPT.widht", "my_model.GPT.width"),
        ("XYZZY", None),
    ],
)
def test_a_word_is_understood_by_name_by_other_frameworks_and_by_spelling(word, setting):
    assert closest(word, SETTINGS) == setting
