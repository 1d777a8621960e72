"""A value is rebuilt from its description, and only what could have been described is built."""

import dataclasses
import json

import optax
import pytest
from small_run import ADAMW, RUN
from unknown_code import CALLABLES

from palmscale import PaLM
from palmscale.data.dataset import Component
from palmscale.errors import UserError
from palmscale.run.identity import describe
from palmscale.run.rebuild import rebuild
from palmscale.run.run import Run

SMALL = {"class": "PaLM", "dim": 8, "num_tokens": 9, "depth": 1}


@pytest.mark.parametrize(
    "value",
    [
        RUN,
        ADAMW,
        PaLM(dim=8, num_tokens=9, depth=1, final_norm="none", remat=("query", "gate@host")),
        Component(name="a", weight=((0, 1.0), (5, 2.0)), cache="there"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_frozen_value_is_rebuilt_from_its_description(value):
    described = json.loads(json.dumps(describe(value)))
    assert rebuild(described) == value
    assert described["class"] == type(value).__name__


@pytest.mark.parametrize("name", CALLABLES)
def test_no_other_callable_is_called_at_any_depth(name):
    for described in ({"class": name, "args": ["true"]}, SMALL | {"remat": [{"class": name}]}):
        with pytest.raises(UserError, match="the checkpoint names"):
            rebuild(described, base=PaLM)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": "8"}, "PaLM.dim another type: it is '8'; expected int"),
        ({"dim": True}, "PaLM.dim another type: it is True; expected int"),
        ({"dim": 2**70}, "PaLM.dim another type"),
        ({"norm_eps": None}, "PaLM.norm_eps another type: it is None; expected float"),
        ({"remat": [1]}, r"PaLM.remat another type: it is \(1,\); expected str or tuple"),
        ({"padded_tokens": 3.5}, "expected int or None"),
        ({"width": 8}, "PaLM a field 'width', which it does not have"),
        ({"parent": None}, "a field 'parent'"),
        ({"dim": -8}, "PaLM.dim=-8 must be at least 1"),
        ({"class": ["PaLM"]}, r"\['PaLM'\] in place of a class"),
        ({"class": None}, "None in place of a class"),
    ],
    ids=str,
)
def test_a_field_that_it_cannot_have_is_named(change, message):
    with pytest.raises(UserError, match=message):
        rebuild(SMALL | change)


def test_a_class_that_lacks_a_field_is_named():
    with pytest.raises(UserError, match="describes a PaLM that cannot be built .*'dim'"):
        rebuild({"class": "PaLM", "num_tokens": 9, "depth": 1})


def test_what_must_be_a_model_is_one():
    with pytest.raises(UserError, match="names MeshSpec, which is not a PaLM"):
        rebuild({"class": "MeshSpec"}, base=PaLM)
    with pytest.raises(UserError, match="names no class where it must"):
        rebuild({"dim": 8}, base=PaLM)


def test_what_functions_have_made_is_not_made_again():
    run = dataclasses.replace(RUN, optimizer=optax.lion(1e-3))
    described = json.loads(json.dumps(describe(run)))
    with pytest.raises(UserError, match=r"a value that 'optax.*' made, .*name the run's gin file"):
        rebuild(described, base=Run)
