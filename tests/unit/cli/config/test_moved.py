"""Files of earlier versions give the runs of today, with one note each that says what moved."""

import logging
import sys

import pytest
import source_tree

from palmscale.cli.config import load, moved
from palmscale.cli.config.types import parameters
from palmscale.errors import UserError
from palmscale.run import stable_names

OLD = source_tree.CHECKOUT / "tests/golden/workdirs/0.1.0"
COMMON = [
    "SEQUENCE_LENGTH=32",
    "LOSS_CHUNK_LENGTH=32",
    "BATCH_SCHEDULE=((0, 4),)",
    "EVAL_SEQUENCES=4",
    "EVAL_EVERY_STEPS=2",
    "SAVE_EVERY_STEPS=2",
    "TRAIN_STEPS=4",
    "KEEP_LATEST=1",
    "HELD_OUT_FRACTION=0.3",
    "CACHE_DIRECTORY=caches",
    "SAMPLE_PROMPT=None",
]
TINY = ["PaLM.dim=4", "PaLM.depth=1", "PaLM.heads=2", "PaLM.dim_head=2"]
TEXT = ["TEXT_FILES=text/*.txt"]
ADAMW = ["BATCH_SCHEDULE=((0, 8),)", "GRADIENT_ACCUMULATION_STEPS=2", "WARMUP_STEPS=2"]
# The stored configuration, the gin file, and its bindings by the names of today.
WORKDIRS = {
    "palm/config.gin": ("configs/recipes/cpu_1m.gin", [*TINY, *COMMON, *TEXT]),
    "config/adamw.gin": ("configs/recipes/cpu_1m_adamw.gin", [*TINY, *COMMON, *TEXT, *ADAMW]),
    "config/mixture.gin": ("mixture.gin", [*TINY, *COMMON]),
    "own_module/config.gin": ("own_module.gin", [*COMMON, *TEXT]),
}


@pytest.fixture(autouse=True)
def in_the_old_folder(monkeypatch):
    """As a user who starts palmscale beside the files."""
    monkeypatch.chdir(OLD)
    monkeypatch.syspath_prepend(OLD)
    yield
    load.reset()
    sys.modules.pop("own_module", None)


@pytest.fixture
def notes(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("palmscale"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("stored", WORKDIRS)
def test_the_stored_configuration_of_an_old_run_is_that_run(stored, notes):
    gin_file, bindings = WORKDIRS[stored]
    old = load.load_run(stored)
    (note,) = notes()
    assert note.startswith(f"{stored}: names of an earlier version are still accepted: ")
    assert old == load.load_run(gin_file, bindings)
    assert old.training.eval_sequences == 4


def test_a_file_that_imports_a_former_module_loads_with_a_note_of_todays_names(notes):
    run = load.load_run("mixture.gin", [*TINY, *COMMON])
    assert [part.name for part in run.data.components] == ["first", "second"]
    assert notes() == [
        "mixture.gin: names of an earlier version are still accepted: run.Data is now Data,"
        " run.Component is now Component, sources.Corpus is now Corpus, files.TextFiles is now"
        " TextFiles."
    ]


QUICKSTART = "configs/runs/quickstart.gin"


@pytest.mark.parametrize("old", moved.MACROS)
def test_a_former_macro_works_on_the_command_line_and_in_a_file_with_a_note(old, notes, tmp_path):
    (tmp_path / "a.gin").write_text(f"include '{QUICKSTART}'\n{old} = 2\n")
    new = load.load_run(QUICKSTART, [f"{moved.MACROS[old]}=2"])
    assert not notes()
    assert load.load_run(QUICKSTART, [f"{old}=2"]) == new
    assert load.load_run(str(tmp_path / "a.gin")) == new
    assert [note.partition(": ")[2] for note in notes()] == [
        f"names of an earlier version are still accepted: {old} is now {moved.MACROS[old]}."
    ] * 2


@pytest.mark.parametrize(
    ("binding", "note"),
    [
        ("palm.PaLM.dim=64", "palm.PaLM is now PaLM"),
        ("loop.Periods.save_every_steps=7", "loop.Periods.save_every_steps is now Saving.every_st"),
        ("run.Run.microbatches=2", "run.Run.microbatches is now Training.gradient_accumulation_st"),
        ("run.Run.allow_changes=('seed',)", "run.Run is now Run"),
    ],
)
def test_a_former_name_on_the_command_line_works_with_a_note(binding, note, notes):
    run = load.load_run(QUICKSTART, [binding])
    assert run != load.load_run(QUICKSTART)
    assert len(notes()) == 1 and note in notes()[0]


def test_what_has_no_successor_says_what_to_bind():
    with pytest.raises(UserError, match="Periods no longer exists; its fields are in Training"):
        load.load_run(QUICKSTART, ["WARM_START=@loop.Periods()"])


def test_every_name_of_today_in_the_table_exists():
    for names in moved.MODULES.values():
        assert all(name in stable_names.MODULES or name == "Periods" for name in names)
    for new in moved.PARAMETERS.values():
        name, _, parameter = new.partition(".")
        assert parameter in parameters(stable_names.find(name))
    for name, field in moved.GROUPS.items():
        assert stable_names.find(name) and field in parameters(stable_names.find("Run"))
