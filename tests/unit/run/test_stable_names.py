import collections

import pytest

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.run import stable_names


@pytest.mark.parametrize("name", stable_names.MODULES)
def test_every_stable_name_is_found_and_names_its_class(name):
    found = stable_names.find(name)
    assert stable_names.name_of(found) == name


def test_the_path_of_an_earlier_version_is_a_stable_name():
    assert stable_names.current("palmscale.somewhere.else:PaLM") == "PaLM"
    assert stable_names.find("palmscale.somewhere.else:PaLM") is PaLM
    assert stable_names.current("PaLM") == "PaLM"


def test_a_users_class_is_known_by_its_module():
    name = "collections:OrderedDict"
    assert stable_names.name_of(collections.OrderedDict) == name
    assert stable_names.current(name) == name


@pytest.mark.parametrize(
    "name", ["Unknown", "no_such_module:A", "collections:OrderedDict", "subprocess:Popen", ""]
)
def test_only_palmscales_own_classes_are_found(name):
    with pytest.raises(UserError, match=f"palmscale has no class '{name}'"):
        stable_names.find(name)
