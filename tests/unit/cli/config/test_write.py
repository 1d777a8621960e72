"""A stored configuration says everything by names that outlive a move of the code."""

from palmscale.cli.config.write import settings_of, stored_text

GIN = """\
import palmscale.model.palm as palmscale_model_palm
import my.module as my_module

# Macros:
MODEL = @palmscale_model_palm.PaLM()
FILES = ('a',)
palmscale_model_palm.PaLM.dim = 4
MODEL/palmscale_model_palm.PaLM.depth = \\
    2
my_module.Thing.files = %FILES
my_module.Thing.inner = (@small/my_module.Thing(), 'my_module.Thing')
"""


def test_classes_are_named_by_their_short_names_and_a_users_own_by_its_module():
    assert (
        stored_text(GIN)
        == """\
import my.module

# Macros
FILES = ('a',)
MODEL = @PaLM()

# my.module.Thing
my.module.Thing.files = %FILES
my.module.Thing.inner = (@small/my.module.Thing(), 'my_module.Thing')

# PaLM
PaLM.dim = 4

# MODEL/PaLM
MODEL/PaLM.depth = 2
"""
    )


def test_writing_again_changes_nothing():
    assert stored_text(stored_text(GIN)) == stored_text(GIN)


def test_settings_are_those_of_today_for_a_file_of_an_earlier_version():
    old = """\
from __gin__ import dynamic_registration
from palmscale.cli import run
from palmscale.train import loop
MICROBATCHES = 2
run.Run.microbatches = %MICROBATCHES
run.Run.periods = @loop.Periods()
loop.Periods.save_every_steps = 5
run.Run.data = @run.Data()
"""
    assert settings_of(old) == {
        "GRADIENT_ACCUMULATION_STEPS": "2",
        "Training.gradient_accumulation_steps": "%GRADIENT_ACCUMULATION_STEPS",
        "Saving.every_steps": "5",
        "Run.data": "@Data()",
    }


def test_a_run_built_in_python_has_no_settings():
    assert settings_of("") == {}
