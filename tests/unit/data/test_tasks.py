"""SeqIO and TensorFlow take seconds to import and leave registries behind: one process for all."""

import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = r"""
import io, json, pathlib, sys
import numpy as np
from palmscale.data import tasks
from palmscale.data.cache import open_or_build
from palmscale.data.sources import Corpus
from palmscale.data.vocab import ByteVocabulary, SentencePieceVocabulary
from palmscale.errors import UserError

root, out, BYTES = pathlib.Path(sys.argv[1]), {}, ByteVocabulary()
seqio = tasks.import_seqio()
import tensorflow as tf
out["accelerators"] = len(tf.config.get_visible_devices("GPU"))

def refusal(call):
    try:
        call()
    except UserError as error:
        return str(error)
    return "nothing was refused"

def read(corpus, vocabulary=BYTES, split="train"):
    return list(tasks.documents(corpus, vocabulary, split))

for i in range(10):
    (root / f"{i}.txt").write_bytes(f"naïve ▁ text {i}\r\n".encode())
text = Corpus(text_files=str(root / "?.txt"), held_out_fraction=0.2)
train, held = read(text), read(text, split="validation")
out["texts"] = sorted(BYTES.decode(ids) for ids, _ in train + held)
out["held"] = len(held)
out["bytes"] = sorted({size for _, size in train})
out["same task"] = tasks.task_of(text, BYTES) is tasks.task_of(text, BYTES)
out["named task"] = tasks.task_of(text, BYTES).name in seqio.TaskRegistry.names()

import sentencepiece
model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["some text 0123456789 naïve"] * 50), model_writer=model,
    vocab_size=290, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
    remove_extra_whitespaces=False, minloglevel=2)
(root / "m.model").write_bytes(model.getvalue())
pieces = SentencePieceVocabulary(str(root / "m.model"))
texts = lambda vocabulary: [vocabulary.decode(ids) for ids, _ in read(text, vocabulary)]
out["pieces"] = texts(pieces) == texts(BYTES)

(root / "bad.utf").write_bytes(b"good \xff")
out["bad utf-8"] = refusal(lambda: read(Corpus(text_files=str(root / "bad.utf"))))
out["no file"] = refusal(lambda: read(Corpus(text_files=str(root / "*.nothing"))))

def source(texts, splits=("train",)):
    def dataset(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices({"targets": [f"{split} {t}" for t in texts]})
    return seqio.FunctionDataSource(dataset, splits=splits)

BYTE = seqio.ByteVocabulary()

def add(name, texts, *, vocabulary=BYTE, feature="targets", splits=("train",), steps=()):
    preprocessors = [seqio.preprocessors.tokenize, *steps]
    if feature != "targets":
        preprocessors = [lambda ds: ds.map(lambda x: {feature: x["targets"]}), *preprocessors]
    seqio.TaskRegistry.add(name, source=source(texts, splits), preprocessors=preprocessors,
                           output_features={feature: seqio.Feature(vocabulary)})
    return Corpus(mixture_or_task=name)

def shout(ds):
    return ds.map(lambda x: x | {"targets": tf.strings.upper(x["targets"])})

upper = "my_upper"
seqio.TaskRegistry.add(upper, source=source("ab", ("train", "validation")),
    preprocessors=[shout, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={"targets": seqio.Feature(seqio.ByteVocabulary())})
upper = Corpus(mixture_or_task=upper)
out["user task"] = [(BYTES.decode(ids), BYTES.eod_id in ids, size) for ids, size in read(upper)]
out["user validation"] = [BYTES.decode(ids) for ids, _ in read(upper, split="validation")]

untold = lambda ds: ds.map(lambda x: {"targets": x["targets"]})
out["counted by decoding"] = [size for _, size in read(add("my_untold", ["é"], steps=[untold]))]
out["no validation"] = read(Corpus(mixture_or_task="my_untold"), split="validation")

theirs = seqio.SentencePieceVocabulary(str(root / "m.model"))
mine = add("my_pieces", ["text"], vocabulary=theirs)
out["their pieces"] = tasks.vocabulary_of(mine, BYTES).digest == pieces.digest
odd = add("my_odd", ["x"], vocabulary=seqio.PassThroughVocabulary(9), steps=())
out["odd vocabulary"] = refusal(lambda: tasks.vocabulary_of(odd))
extra = add("my_extra", "x", vocabulary=seqio.ByteVocabulary(100))
out["extra ids"] = refusal(lambda: tasks.vocabulary_of(extra))
words = add("my_words", "x", feature="words")
out["feature"] = refusal(lambda: tasks.vocabulary_of(words))
out["split"] = refusal(lambda: read(add("my_test_only", "x", splits=("test",))))
out["near"] = refusal(lambda: read(Corpus(mixture_or_task="my_uper")))
out["far"] = refusal(lambda: read(Corpus(mixture_or_task="zzzzzzzz")))

add("many", [f"m{i}" for i in range(2000)]), add("few", [f"f{i}" for i in range(300)])
seqio.MixtureRegistry.add("my_mixture", [("many", 0.7), ("few", 0.3)])
mixture = Corpus(mixture_or_task="my_mixture")
mixed = [BYTES.decode(ids) for ids, _ in read(mixture)]
few = [text for text in mixed if "f" in text]
out["mixture"] = [len(set(few)) == len(few), len(few), len(few) / len(mixed)]
out["mixture again"] = mixed == [BYTES.decode(ids) for ids, _ in read(mixture)]

build = dict(vocabulary=BYTES, sequence_length=16, seed=0, cache_directory=root / "caches")
cache = open_or_build(corpus=mixture, **build)
train, held = cache.split("train"), cache.split("validation")
out["cache"] = [cache.vocabulary.name, train.documents, held.num_rows]
cache = open_or_build(corpus=text, **build | {"vocabulary": pieces})
out["cache of pieces"] = cache.vocabulary.digest == pieces.digest
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("tasks"))]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[3]
    )


@pytest.fixture(scope="module")
def out(run):
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_tensorflow_is_quiet_and_leaves_the_accelerators_alone(run, out):
    assert out["accelerators"] == 0
    assert run.stderr == "" and len(run.stdout.splitlines()) == 1


def test_local_text_comes_whole_through_a_registered_task(out):
    assert out["texts"] == sorted(f"naïve ▁ text {i}\r\n" for i in range(10))
    assert out["held"] == 2 and out["bytes"] == [len("naïve ▁ text 0\r\n".encode())]
    assert out["same task"] and out["named task"]


def test_training_text_is_encoded_as_prompts_are(out):
    assert out["pieces"]


def test_a_users_preprocessors_apply_and_their_eos_is_not_doubled(out):
    assert out["user task"] == [["TRAIN A", False, 7], ["TRAIN B", False, 7]]
    assert out["user validation"] == ["VALIDATION A", "VALIDATION B"]


def test_bytes_are_counted_by_decoding_where_the_text_is_gone(out):
    assert out["counted by decoding"] == [len("train é".encode())] and out["no validation"] == []


def test_a_users_vocabulary_is_taken_over_or_refused(out):
    assert out["their pieces"]
    assert "PassThroughVocabulary" in out["odd vocabulary"] and "100 extra ids" in out["extra ids"]
    assert "(it has words)" in out["feature"]


def test_a_mixture_keeps_its_rates_to_the_end_and_its_order(out):
    unique, few, share = out["mixture"]
    assert unique and few >= 290 and share == pytest.approx(0.3, abs=0.04)
    assert out["mixture again"]


def test_a_users_mistake_comes_through_tensorflow_as_one_line(out):
    assert "bad.utf: byte 5 is not UTF-8" in out["bad utf-8"] and "\n" not in out["bad utf-8"]
    assert "*.nothing" in out["no file"] and "no split 'train' (it has test)" in out["split"]


def test_an_unknown_name_is_answered_with_the_nearest_known(out):
    assert "MIXTURE_OR_TASK='my_uper'" in out["near"] and "'my_upper'" in out["near"]
    assert "registered are [" in out["far"] and all("\n" not in out[key] for key in ("near", "far"))


def test_a_cache_carries_the_vocabulary_of_its_rows(out):
    vocabulary, documents, held = out["cache"]
    assert vocabulary == "bytes" and documents > 900 and held == 0 and out["cache of pieces"]
