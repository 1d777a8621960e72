"""A candidate scores and continues text of any length within its context."""

import dataclasses

import numpy as np
import pytest

from palmscale.errors import UserError
from palmscale.infer.continuation import TextRequest
from palmscale.infer.likelihoods import Pair
from palmscale.infer.score import score

CONTEXT = 24


@pytest.fixture
def short(candidate):
    """It sees 24 tokens."""
    return dataclasses.replace(candidate, context_length=CONTEXT)


def of_row(candidate, row, first, context_length=None):
    params = candidate.variables["params"]
    row = np.array(row, np.int32)
    said = score(
        model=candidate.model, params=params, row=row, text_bytes=1, context_length=context_length
    )  # fmt: skip
    return said.log_probabilities[first:].sum(dtype=np.float64)


def test_of_a_context_that_is_too_long_the_model_sees_bos_and_the_end(short, caplog):
    context, continuation = [0, *range(5, 45)], [50, 51, 52, 53]
    found = short.likelihoods([Pair([0, 5], [6]), Pair(context, continuation)])
    seen = [0, *context[-(CONTEXT - 4) :]]
    assert len(seen) + 3 == CONTEXT
    expected = of_row(short, [*seen, *continuation], len(seen) - 1)
    assert found[1].log_probability == pytest.approx(expected, abs=1e-5)
    assert "1 of 2 texts are longer than context_length=24 tokens" in caplog.text


def test_a_continuation_that_is_too_long_is_scored_in_windows(short):
    continuation = list(range(3, 63))
    (found,) = short.likelihoods([Pair([0, 9, 9], continuation)])
    expected = of_row(short, [0, *continuation], 0, context_length=CONTEXT)
    assert found.log_probability == pytest.approx(expected, abs=1e-4)


def test_rolling_likelihoods_are_those_of_score_in_windows(short):
    texts = [list(range(3, 3 + length)) for length in (60, 1, 24, 25)] + [[]]
    expected = [of_row(short, [0, *ids], 0, context_length=CONTEXT) for ids in texts]
    np.testing.assert_allclose(short.rolling_likelihoods(texts), expected, atol=1e-4)


def test_a_prompt_that_is_too_long_is_continued_from_its_end(short):
    whole, end = "x" * 90 + "def encode", ("x" * 90 + "def encode")[-(CONTEXT - 6 - 1) :]
    requests = [TextRequest(prompt=text, max_tokens=6, temperature=0.0) for text in (whole, end)]
    texts = short.continuations(requests)
    assert texts[0] == texts[1]
    assert short.continuations([]) == []


def test_new_tokens_must_leave_room_for_the_prompt(short):
    with pytest.raises(UserError, match="max_tokens=24 leaves no room.*context_length=24"):
        short.continuations([TextRequest(prompt="a", max_tokens=CONTEXT)])


def test_a_stop_string_ends_a_continuation_and_progress_is_told(short):
    steps = []
    told = dataclasses.replace(short, progress=lambda *step: steps.append(step))
    request = TextRequest(prompt="a", max_tokens=12, temperature=0.0, ignore_eos=True)
    (whole,) = told.continuations([request])
    assert whole and set(steps) == {("texts written", 0, 1)}
    told.likelihoods([Pair([0], [5]), Pair([0], [6])])
    assert steps[-2:] == [("continuations scored", 0, 2), ("continuations scored", 1, 2)]
    (cut,) = told.continuations([dataclasses.replace(request, stop=(whole[2:4],))])
    assert cut == whole[: whole.index(whole[2:4])]
