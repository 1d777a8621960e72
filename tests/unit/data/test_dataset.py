"""What a mixture may be, and what it is at each step."""

import dataclasses

import pytest

from palmscale.data.dataset import Component, Data
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.text_files import StandardLibrary
from palmscale.errors import UserError

DATA = Data(corpus=Corpus(source=StandardLibrary()), sequence_length=32, seed=0)


def part(name, weight=1.0, **fields):
    where = fields or {"corpus": Corpus(source=StandardLibrary())}
    return Component(name=name, weight=weight, **where)


def mixed(*components, **fields):
    return dataclasses.replace(DATA, corpus=None, components=components, **fields)


MIXTURE = mixed(part("a", 3), part("b", ((0, 1), (10, 0), (20, 2))), part("c", 1.5, cache="there"))


def test_the_parts_of_a_mixture_are_its_components_and_of_a_corpus_itself():
    parts = MIXTURE.parts()
    assert list(parts) == ["a", "b", "c"]
    assert parts["a"] == DATA
    assert parts["c"] == dataclasses.replace(DATA, corpus=None, cache="there")
    assert DATA.parts() == {"": DATA}


def test_weights_hold_from_their_step_on():
    assert MIXTURE.weight_stages() == [
        (0, {"a": 3, "b": 1, "c": 1.5}),
        (10, {"a": 3, "b": 0, "c": 1.5}),
        (20, {"a": 3, "b": 2, "c": 1.5}),
    ]
    assert [MIXTURE.weights_at(step)["b"] for step in (9, 10, 19, 20, 999)] == [1, 0, 0, 2, 2]
    assert DATA.weights_at(7) == {"": 1.0}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: part("a/b"), "Component.name='a/b' is invalid"),
        (lambda: part(""), "Component.name=''"),
        (lambda: part("a", -1), "the component a has Component.weight=-1"),
        (lambda: part("a", float("nan")), "weight=nan"),
        (lambda: part("a", ()), "weight=()"),
        (lambda: part("a", ((1, 2.0),)), "steps that start at 0 and increase"),
        (lambda: part("a", ((0, 2.0), (5, 1.0), (5, 2.0))), "steps that start at 0 and increase"),
        (lambda: part("a", corpus=None), "the component a has neither of Component.corpus"),
        (lambda: part("a", corpus=DATA.corpus, cache="x"), "a has both of Component.corpus"),
        (lambda: mixed(part("a"), part("a")), "the name a more than once"),
        (lambda: mixed(part("a", 0), part("b", ((0, 1), (9, 0)))), "weight 0 from step 9"),
        (lambda: mixed(part("a"), cache="x"), "Data.components replaces Data.corpus"),
        (lambda: mixed(), "are all unset"),
    ],
)
def test_a_wrong_mixture_is_refused_by_name(wrong, message):
    with pytest.raises(UserError) as refused:
        wrong()
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_two_vocabularies_are_refused():
    with pytest.raises(UserError, match="Data.vocabulary='bytes' and .* are both set; set one"):
        Data(cache="rows", sequence_length=8, seed=0, vocabulary="bytes", sentencepiece_model="m")
