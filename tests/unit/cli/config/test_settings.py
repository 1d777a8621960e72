"""Every setting of a run, with its value, its place and its meaning."""

from palmscale.cli.config import load
from palmscale.cli.config.load import settings

FILES = ["configs/runs/quickstart.gin"]


def loaded(files, *bindings):
    load.load(files, bindings)
    return {setting.name: setting for setting in settings()}


def test_macros_fields_and_defaults_are_told_with_their_places():
    told = loaded(FILES, "TRAIN_STEPS=7")
    assert told["TRAIN_STEPS"].row() == (
        "TRAIN_STEPS",
        "7",
        "--gin.TRAIN_STEPS=7",
        "Training.steps: in all, those before a restart included",
    )
    width = told["PaLM.dim"]
    assert width.row()[::3] == ("PaLM.dim", "D, the width of the model")
    assert width.value == "128" and "configs/models/palm_cpu_1m.gin:" in width.place
    assert told["Training.rates_every_steps"][2:4] == ("10", "default")
    assert told["NUM_TOKENS"].fields == ("PaLM.num_tokens", "padded_tokens.num_tokens")


def test_the_place_is_the_line_of_the_file():
    place = loaded(FILES)["BATCH_SCHEDULE"].place
    path, _, line = place.rpartition(":")
    assert "BATCH_SCHEDULE = " in open(load.ROOT / path).read().splitlines()[int(line) - 1]


def test_only_what_the_run_is_made_of_is_told():
    assert "Adafactor.beta1" in loaded(FILES) and "AdamW.beta1" not in loaded(FILES)
    told = loaded([*FILES, "configs/optim/adamw.gin"])
    assert "AdamW.beta1" in told and "Adafactor.beta1" not in told
    assert told["TRAIN_STEPS"].fields == ("Training.steps", "WarmupCosine.total_steps")
    assert "PaLM.name" not in told and "PaLM.parent" not in told


def test_every_setting_of_every_recipe_has_a_value_a_place_and_a_meaning():
    for path in sorted((load.ROOT / "configs/recipes").glob("*.gin")):
        for setting in loaded([str(path)]).values():
            assert all(setting.row()), setting


MIXTURE = """
include 'configs/runs/quickstart.gin'
FIRST = 3
Data.corpus = None
Data.components = (@a/Component(), @b/Component())
Component.corpus = @Corpus()
a/Component.name = 'a'
b/Component.name = 'b'
a/Component.weight = ((0, %FIRST), (9, 1))
b/Component.weight = 1
"""


def test_components_are_told_apart_and_a_macro_within_a_value_is_told_too(tmp_path):
    (tmp_path / "mixture.gin").write_text(MIXTURE)
    told = loaded([str(tmp_path / "mixture.gin")])
    assert told["a/Component.weight"].value == "((0, %FIRST), (9, 1))"
    assert told["b/Component.weight"].value == "1"
    assert told["FIRST"][1:3] == ((), "3")


MODULE = '''
import dataclasses


@dataclasses.dataclass(frozen=True)
class Wide:
    """A model.

    Attributes:
        width: in units. Large.
    """

    width: int = 3
    depth: int = 4
'''


def test_a_module_of_ones_own_is_told_by_its_own_docstring(tmp_path, monkeypatch):
    (tmp_path / "a_model.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "a.gin").write_text("import a_model\na_model.Wide.width = 5\n")
    told = loaded(["a.gin"])
    assert told["a_model.Wide.width"][2:] == ("5", "a.gin:2", "in units")
    assert told["a_model.Wide.depth"][2:] == ("4", "default", "")
