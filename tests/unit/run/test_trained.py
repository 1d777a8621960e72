"""What a trained model offers: text, samples, beams, scores, likelihoods and an engine."""

import math

import jax
import numpy as np
import pytest
from small_run import MODEL

from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import UserError
from palmscale.infer.continuation import TextRequest, continued
from palmscale.infer.request import Output, Token
from palmscale.partition.shardings import unbox
from palmscale.run import trained as tested
from palmscale.run.trained import Trained


@pytest.fixture
def trained():
    params = unbox(MODEL.init(jax.random.key(0), jax.numpy.zeros((1, 1), int))["params"])
    return Trained(
        model=MODEL, params=params, vocabulary=ByteVocabulary(), step=1, meta={}, layout=None
    )


def writes(monkeypatch, *rows):
    """Has engines draw these tokens for the first, second ... request."""

    class Scripted:
        def __init__(self, slots, **settings):
            self.slots, self.queued, self.answers = slots, 0, []
            self.rows = enumerate(rows)

        def submit(self, request):
            number, row = next(self.rows)
            assert set(row[:-1]).isdisjoint(request.stop_ids)
            tokens = [Token(id=int(i)) for i in row]
            self.answers.append(Output(request_id=number, tokens=tokens, finished="stop"))
            return number

        def step(self):
            answers, self.answers = self.answers, []
            return answers

        def cancel(self, request_id):
            pass

    monkeypatch.setattr(tested, "Engine", Scripted)


def test_the_end_of_the_document_is_not_part_of_the_text(trained, monkeypatch):
    writes(monkeypatch, [*trained.vocabulary.encode("ab"), trained.vocabulary.eod_id])
    assert trained.generate("x") == "ab"


def test_samples_are_cut_at_the_end_of_their_documents(trained):
    wanted = {"max_tokens": 3, "temperature": 1.0}
    texts = trained.samples("x", num_samples=4, **wanted)
    assert len(texts) == 4 and trained.samples("x", num_samples=4, **wanted) == texts


def test_a_value_out_of_range_is_refused(trained):
    with pytest.raises(UserError, match="temperature=-1"):
        trained.generate("x", temperature=-1)


def test_the_score_of_a_text_is_its_log_probability(trained):
    likely, unlikely, empty = trained.score(["def a(x):\n    return x", "\x00\x01 quartz!", ""])
    assert math.isfinite(unlikely.bits_per_byte)
    assert likely.log_probability == pytest.approx(likely.log_probabilities.sum(), rel=1e-5)
    row = np.concatenate([[trained.vocabulary.bos_id], likely.token_ids])[None].astype(np.int32)
    logits_LV = np.float64(trained.model.apply({"params": trained.params}, row))[0, :-1]
    log_p_LV = logits_LV - np.log(np.exp(logits_LV).sum(-1, keepdims=True))
    wanted_L = log_p_LV[np.arange(len(likely.token_ids)), likely.token_ids]
    np.testing.assert_allclose(likely.log_probabilities, wanted_L, atol=1e-5)
    assert empty.log_probability == 0 and math.isnan(empty.bits_per_byte)


def test_each_sample_ends_with_its_own_document(trained, monkeypatch):
    a, b, end = *trained.vocabulary.encode("ab"), trained.vocabulary.eod_id
    writes(monkeypatch, [a, end], [end], [a, b, end])
    wanted = {"max_tokens": 9}
    assert trained.samples("x", num_samples=3, **wanted) == ["a", "", "ab"]


def test_the_first_sample_is_the_text_of_its_seed(trained):
    wanted = {"max_tokens": 9, "temperature": 1.0, "seed": 3}
    first, second = trained.samples("x", num_samples=2, **wanted)
    assert first == "".join(trained.stream("x", **wanted)) != second


def test_an_engine_may_take_the_parameters_over(trained):
    before = trained.generate("x", max_tokens=5, temperature=0)
    engine = trained.engine(slots=2, context_length=32, donate=True)
    request = TextRequest(prompt="x", max_tokens=5, temperature=0)
    pieces = continued(engine, trained.vocabulary, [request])
    assert "".join(piece.text for _, piece in pieces) == before


def test_likelihoods_of_continuations_are_those_of_the_whole_texts(trained):
    found = trained.likelihoods([("def ", "a(x)"), ("", "def "), ("def", " a(x)")])
    scores = trained.score(["def a(x)", "def "])
    ids = trained.vocabulary.encode("def").tolist()
    assert found[0] == found[2]
    tail = scores[0].log_probabilities[len(ids) :].sum()
    assert found[0].log_probability == pytest.approx(tail, abs=1e-4)
    assert found[1].log_probability == pytest.approx(scores[1].log_probability, abs=1e-4)


def test_beams_are_texts_by_their_scores_and_one_is_greedy(trained):
    greedy = trained.generate("x", max_tokens=6, temperature=0)
    assert [text for text, _ in trained.beams("x", beams=1, max_tokens=6)] == [greedy]
    found = trained.beams("x", beams=3, max_tokens=6)
    assert len({text for text, _ in found}) == 3
    assert [beam.score for _, beam in found] == sorted((b.score for _, b in found), reverse=True)
