"""transformers and llama.cpp gave these logits and ids for the bytes that we export.

make_engine_goldens.py ran them; tests/e2e/test_engines_live.py runs them anew, and these tests on
the results, which ENGINES_RESULTS names.
"""

import hashlib
import json
import os
import pathlib

import engine_cases
import engine_exports
import hostile_texts
import jax
import numpy as np
import pytest

RESULTS = pathlib.Path(os.environ.get("ENGINES_RESULTS", pathlib.Path(__file__).parent))
FACTS = json.loads((RESULTS / "engines.json").read_text())
VOCABULARIES = ("bytes", "raw_bytes", "bpe", "bpe_prefix", "tokenizer")


@pytest.fixture(scope="module")
def golden():
    with np.load(RESULTS / "engines.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module", params=engine_cases.CASES)
def case(request, golden):
    """(name, our logits at all positions of the text and what transformers generated after it)."""
    name = request.param
    text = np.concatenate([engine_cases.tokens(name), golden[f"{name}/generated"]])
    logits = jax.jit(engine_exports.model(name).apply)(engine_exports.variables(name), text[None])
    return name, np.asarray(logits[0, :, : engine_cases.NUM_TOKENS])


def test_we_export_the_bytes_that_the_engines_ran(case):
    name, _ = case
    assert engine_exports.digests(name) == FACTS[name]


def test_logits_of_transformers_are_ours(case, golden):
    name, logits = case
    ours, theirs = logits[list(engine_cases.POSITIONS)], golden[f"{name}/logits"]
    assert theirs.std() > 0.3
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(theirs.argmax(-1), ours.argmax(-1))


def test_cached_generation_of_transformers_takes_our_likeliest_tokens(case, golden):
    name, logits = case
    ours = logits[engine_cases.LENGTH - 1 : -1].argmax(-1)
    np.testing.assert_array_equal(golden[f"{name}/generated"], ours)


def test_log_probabilities_of_llama_cpp_are_ours(case, golden):
    name, logits = case
    ours = jax.nn.log_softmax(logits[list(engine_cases.POSITIONS)])
    theirs = golden[f"{name}/log_probabilities"]
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(theirs.argmax(-1), ours.argmax(-1))


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.05), ("q8_0", 0.2), ("q4_0", 2.0)])
def test_rounded_weights_moved_log_probabilities_of_llama_cpp_little(dtype, most):
    assert 0 < FACTS["worst"][dtype] <= most


@pytest.mark.parametrize("name", VOCABULARIES)
def test_engines_gave_200_hostile_texts_our_ids(name):
    facts, vocabulary = FACTS[name], engine_exports.vocabulary(name)
    described = engine_exports.vocabulary_digests(name)
    assert described.items() <= facts.items()  # the engines had these very files
    texts = hostile_texts.hostile_texts()
    ids = {text: [vocabulary.bos_id, *vocabulary.encode(text).tolist()] for text in texts}
    assert len(texts) == 200
    assert digest([ids[text] for text in texts]) == facts["transformers"]
    if name != "bpe":
        assert digest([ids[text] for text in texts]) == facts["llama.cpp"]
    # Its SentencePiece takes U+2581 for a space. Ours spells it in bytes where no text is lost.
    plain = [ids[text] for text in texts if "\u2581" not in text]
    assert digest(plain) == facts["llama.cpp without U+2581"]


def digest(ids):
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()
