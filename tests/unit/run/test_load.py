"""A loaded model is the one that was trained, and needs nothing but its checkpoint."""

import math
import shutil

import forged
import jax
import numpy as np
import pytest
from small_run import MODEL

import palmscale
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import UserError
from palmscale.infer.continuation import TextRequest, continued
from palmscale.infer.request import Output, Token
from palmscale.partition.shardings import unbox
from palmscale.run import load
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

    monkeypatch.setattr(load, "Engine", Scripted)


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


def test_a_loaded_model_is_what_was_trained_and_needs_no_configuration(small_run, result, workdir):
    trained = palmscale.load(workdir)
    assert trained.model == small_run.model and trained.step == 4 and trained.layout is None
    assert trained.vocabulary.name == "bytes" or trained.vocabulary.size == 259
    text = trained.generate("def ", max_tokens=12, temperature=0)
    assert text == trained.generate("def ", max_tokens=12, temperature=0, seed=5)
    assert palmscale.generate(workdir, "def ", max_tokens=12, temperature=0) == text
    assert palmscale.load(workdir, checkpoint=2).step == 2


def test_the_score_of_a_text_is_its_log_probability(result, workdir):
    trained = palmscale.load(workdir)
    likely, unlikely, empty = trained.score(["def a(x):\n    return x", "\x00\x01 quartz!", ""])
    assert likely.bits_per_byte < unlikely.bits_per_byte
    assert likely.log_probability == pytest.approx(likely.log_probabilities.sum(), rel=1e-5)
    row = np.concatenate([[trained.vocabulary.bos_id], likely.token_ids])[None].astype(np.int32)
    logits_LV = np.float64(trained.model.apply({"params": trained.params}, row))[0, :-1]
    log_p_LV = logits_LV - np.log(np.exp(logits_LV).sum(-1, keepdims=True))
    wanted_L = log_p_LV[np.arange(len(likely.token_ids)), likely.token_ids]
    np.testing.assert_allclose(likely.log_probabilities, wanted_L, atol=1e-5)
    assert empty.log_probability == 0 and math.isnan(empty.bits_per_byte)


def test_a_model_lands_on_a_mesh_that_is_asked_for(result, workdir):
    layout = palmscale.run.run.Layout()
    trained = palmscale.load(workdir, layout=layout)
    assert trained.layout.mesh.size == 1
    alone = palmscale.load(workdir)
    assert trained.generate("x", max_tokens=4, temperature=0) == alone.generate(
        "x", max_tokens=4, temperature=0
    )


def described(workdir, tmp_path, **fields):
    """A copy of the run whose checkpoint describes another model."""
    copy = shutil.copytree(workdir, tmp_path / "copy")

    def change(meta):
        meta["identity"]["model"] |= fields
        return meta

    forged.edit(copy / "checkpoints/4", "meta.json", change)
    return copy


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": 64}, "does not match the model"),
        ({"dim": 2**62}, "does not match the model"),
        ({"depth": 10**12, "scan_layers": False}, "of 1,000,000,000,000 layers and has"),
        ({"class": "flax.linen.linear:Dense"}, "if you trust flax.linen.linear, choose it"),
    ],
    ids=str,
)
def test_another_model_than_the_stored_one_is_refused_before_it_takes_memory(
    fields, message, result, workdir, tmp_path
):
    with pytest.raises(UserError, match=message):
        palmscale.load(described(workdir, tmp_path, **fields))


def test_arrays_that_the_files_cannot_hold_are_refused_before_they_take_memory(
    result, workdir, tmp_path
):
    copy = described(workdir, tmp_path, dim=2**40)

    def grown(manifest):
        for array in manifest["arrays"]["params"].values():
            array["shape"] = [{32: 2**40, 128: 2**42}.get(size, size) for size in array["shape"]]
        return manifest

    forged.edit(copy / "checkpoints/4", "MANIFEST.json", grown)
    with pytest.raises(UserError, match="params has .* bytes, but its arrays take"):
        palmscale.load(copy, checkpoint=4)


def test_a_folder_that_holds_no_run_says_so(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        palmscale.load(tmp_path)


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


def test_beams_are_texts_by_their_scores_and_one_is_greedy(trained):
    greedy = trained.generate("x", max_tokens=6, temperature=0)
    assert [text for text, _ in trained.beams("x", beams=1, max_tokens=6)] == [greedy]
    found = trained.beams("x", beams=3, max_tokens=6)
    assert len({text for text, _ in found}) == 3
    assert [beam.score for _, beam in found] == sorted((b.score for _, b in found), reverse=True)
