import dataclasses

import jax
import pytest
from small_run import MODEL, RUN

from palmscale.data.vocabulary import ByteVocabulary
from palmscale.infer.continuation import Piece
from palmscale.observe.reporting import Reporting
from palmscale.partition.shardings import unbox
from palmscale.run import sample


@pytest.fixture(scope="module")
def params():
    return unbox(MODEL.init(jax.random.key(0), jax.numpy.zeros((1, 1), int))["params"])


def said(caplog, params, **fields):
    run = dataclasses.replace(RUN, reporting=Reporting(sample_tokens=3, **fields))
    with caplog.at_level("INFO"):
        sample.say_sample(run, ByteVocabulary(), params)
    return caplog.text


def test_a_run_with_a_prompt_prints_how_the_model_continues_it(caplog, params):
    assert "A sample:\ndef " in said(caplog, params, sample_prompt="def ")


def test_without_a_prompt_or_with_too_large_a_model_nothing_is_printed(caplog, params, monkeypatch):
    assert said(caplog, params) == ""
    monkeypatch.setattr(sample, "ONE_DEVICE_BYTES", 10)
    assert said(caplog, params, sample_prompt="def ") == ""


def test_the_sample_is_what_the_engine_writes(caplog, params, monkeypatch):
    def written(engine, vocabulary, requests):
        (request,) = requests
        assert request.prompt == "def " and request.max_tokens == 3
        yield 0, Piece(text="ab")
        yield 0, Piece(text="c", finish_reason="stop")

    monkeypatch.setattr(sample, "continued", written)
    assert said(caplog, params, sample_prompt="def ").endswith("A sample:\ndef abc\n\n")
