import dataclasses

import engine_exports
import pytest
import tiny_sentencepiece

from palmscale.data.vocabulary import SentencePieceVocabulary
from palmscale.errors import UserError
from palmscale.interop import gguf_file

KINDS = {"NORMAL": 1, "UNKNOWN": 2, "CONTROL": 3, "UNUSED": 5, "BYTE": 6}


def fields(outgoing, folder):
    """The fields of a GGUF file that describe its vocabulary."""
    gguf_file.write(outgoing, folder / "x.gguf")
    found, _ = gguf_file.read(folder / "x.gguf")
    prefix = "tokenizer.ggml."
    return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


def with_vocabulary(folder, **options):
    path = tiny_sentencepiece.train(folder / "x.model", **{"model_type": "bpe"} | options)
    vocabulary = SentencePieceVocabulary(path)
    return dataclasses.replace(engine_exports.with_vocabulary("bpe"), vocabulary=vocabulary)


def test_bytes_are_byte_level_bpe_without_merges(tmp_path):
    found = fields(engine_exports.with_vocabulary("bytes"), tmp_path)
    assert found["model"] == "gpt2" and len(found["merges"]) == 1
    assert found["tokens"][3 + ord("a")] == "a" and found["tokens"][3 + ord(" ")] == "Ġ"
    assert found["token_type"] == [KINDS["CONTROL"]] * 3 + [KINDS["NORMAL"]] * 256


def test_sentencepiece_has_scores_and_kinds(tmp_path):
    vocabulary = engine_exports.vocabulary("bpe")
    found = fields(engine_exports.with_vocabulary("bpe"), tmp_path)
    assert found["model"] == "llama" and found["tokens"] == vocabulary.pieces()
    assert found["token_type"][:4] == [3, 3, KINDS["UNKNOWN"], KINDS["BYTE"]]
    assert len(found["scores"]) == vocabulary.size
    assert not found["add_space_prefix"]


def test_bos_is_put_before_a_text_and_eos_not_after_it(tmp_path):
    found = fields(engine_exports.with_vocabulary("bpe_prefix"), tmp_path)
    assert found["add_bos_token"] and not found["add_eos_token"] and found["add_space_prefix"]
    assert (found["bos_token_id"], found["eos_token_id"], found["padding_token_id"]) == (0, 1, 0)


def test_ids_without_a_piece_are_unused_tokens(tmp_path):
    outgoing = engine_exports.outgoing("rms_wide", vocabulary=engine_exports.vocabulary("bytes"))
    model = outgoing.model.clone(num_tokens=259, padded_tokens=None)
    found = fields(dataclasses.replace(outgoing, model=model), tmp_path)
    assert len(found["tokens"]) == 259
    wider = engine_exports.with_vocabulary("bpe")
    found = fields(dataclasses.replace(wider, vocabulary=outgoing.vocabulary), tmp_path)
    assert found["tokens"][259:261] == ["<unused0>", "<unused1>"]
    assert set(found["token_type"][259:]) == {KINDS["UNUSED"]}


def test_a_special_token_that_pieces_could_merge_into_has_another_name(tmp_path, monkeypatch):
    """llama.cpp merges `</` and `s>` into `</s>`, the end of the document."""
    text = "</ </ s> s> </ s>\n" * 50
    monkeypatch.setattr(tiny_sentencepiece, "TEXT", text)
    outgoing = with_vocabulary(tmp_path, split_by_unicode_script=False)
    pieces = set(outgoing.vocabulary.pieces())
    assert any(pieces >= {"</s>"[:n], "</s>"[n:]} for n in range(1, 4)), "the text is of no use"
    assert fields(outgoing, tmp_path)["tokens"][1] == "<</s>>"


def test_a_unigram_model_is_refused_by_name(tmp_path):
    outgoing = with_vocabulary(tmp_path, model_type="unigram")
    with pytest.raises(UserError, match="is not BPE"):
        gguf_file.write(outgoing, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()
