import os

import pytest

from palmscale import PaLM
from palmscale.cli.config.chosen import ChosenModules
from palmscale.errors import UserError

CHOSEN = ChosenModules(("mine",))


@pytest.mark.parametrize(
    "module", ["palmscale.model.palm", "palmscale.train.loop", "mine", "mine.inner"]
)
def test_palmscales_modules_of_any_version_and_chosen_ones_may_be_imported(module):
    CHOSEN.check_import(module, "config.gin:1")


@pytest.mark.parametrize("module", ["subprocess", "mined", "palmscale.cli.main", "palmscale", ""])
def test_no_other_module_is_imported(module):
    with pytest.raises(UserError, match=f"config.gin:1: .* modules={module}"):
        CHOSEN.check_import(module, "config.gin:1")


def test_a_name_is_of_palmscales_or_of_a_chosen_module():
    imports = {"m": "mine", "palm": "palmscale.model.palm", "run": "palmscale.cli.run", "os": "os"}
    for name in ("PaLM", "palm.PaLM", "run.Run", "m.Model"):
        CHOSEN.check_name(name, imports, "config.gin:1")
    for name, module in (
        ("palm.jax.device_put", "jax"),
        ("os.system", "os"),
        ("unknown", "unknown"),
    ):
        with pytest.raises(UserError, match=module):
            CHOSEN.check_name(name, imports, "config.gin:1")


def test_what_a_chosen_module_imports_from_another_is_not_its_own():
    CHOSEN.check_target(PaLM, "config.gin:1")
    CHOSEN.check_target(type("Model", (), {"__module__": "mine.inner"}), "config.gin:1")
    for target in (os.system, print):
        with pytest.raises(UserError, match="config.gin:1"):
            CHOSEN.check_target(target, "config.gin:1")
