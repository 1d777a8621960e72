"""Every public name is found, and nothing heavy is loaded before it is asked for."""

import pytest

import palmscale
from palmscale.run import stable_names


@pytest.mark.parametrize("name", stable_names.MODULES)
def test_what_a_run_is_made_of_is_public(name):
    assert getattr(palmscale, name) is stable_names.find(name)
    assert name in dir(palmscale)


@pytest.mark.parametrize(
    "name",
    [
        *("load_run", "place_from", "evaluate", "load", "generate", "history", "train", "plan"),
        "TextRequest",
        "merge",
    ],
)
def test_the_functions_are_public(name):
    assert callable(getattr(palmscale, name)) and name in dir(palmscale)


def test_packages_that_are_called_are_packages_still():
    assert palmscale.train.verb.__doc__.startswith("Trains a run")
    assert palmscale.plan.verb.__doc__.startswith("Returns the plans")
    with pytest.raises(TypeError, match="train"):
        palmscale.train()


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'PaLm'"):
        palmscale.PaLm  # noqa: B018
