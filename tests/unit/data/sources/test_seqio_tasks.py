"""SeqIO and TensorFlow take seconds to import and leave registries behind: one process for all."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

SCRIPT = r"""
import io, json, pathlib, sys
import numpy as np
from palmscale.data.cache import find_or_build
from palmscale.data.sources import seqio_tasks
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.jsonl_parquet import Jsonl
from palmscale.data.sources.seqio_data_source import data_source
from palmscale.data.sources.seqio_tasks import SeqioTask, Tfds
from palmscale.data.sources.source import BadDocument, Example
from palmscale.data.sources.text_files import TextFiles
from palmscale.data.vocabulary import ByteVocabulary, SentencePieceVocabulary
from palmscale.errors import UserError

root, out, BYTES = pathlib.Path(sys.argv[1]), {}, ByteVocabulary()
seqio = seqio_tasks.import_seqio()
import tensorflow as tf
out["accelerators"] = len(tf.config.get_visible_devices("GPU"))

def refusal(call):
    try:
        call()
    except UserError as error:
        return str(error)
    return "nothing was refused"

def read(source, split="train"):
    vocabulary = source.vocabulary(BYTES)
    return [example for shard in source.shards() if shard.split in (split, None)
            for example in source.examples(shard, vocabulary) if example is not None]

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
    return SeqioTask(mixture_or_task=name)

def shout(ds):
    return ds.map(lambda x: x | {"targets": tf.strings.upper(x["targets"])})

upper = "my_upper"
seqio.TaskRegistry.add(upper, source=source("ab", ("train", "validation")),
    preprocessors=[shout, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={"targets": seqio.Feature(seqio.ByteVocabulary())})
upper = SeqioTask(mixture_or_task=upper)
out["user task"] = [(BYTES.decode(e.ids), BYTES.eod_id in e.ids, e.text_bytes)
                    for e in read(upper)]
out["user validation"] = [BYTES.decode(e.ids) for e in read(upper, "validation")]

untold = lambda ds: ds.map(lambda x: {"targets": x["targets"]})
untold = add("my_untold", ["é"], steps=[untold])
out["counted by decoding"] = [e.text_bytes for e in read(untold)]
out["no validation"] = read(untold, "validation")

import sentencepiece
model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["some text 0123456789 naïve"] * 50), model_writer=model,
    vocab_size=290, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
    remove_extra_whitespaces=False, minloglevel=2)
(root / "m.model").write_bytes(model.getvalue())
pieces = SentencePieceVocabulary(str(root / "m.model"))
theirs = seqio.SentencePieceVocabulary(str(root / "m.model"))
mine = add("my_pieces", ["text"], vocabulary=theirs)
out["their pieces"] = mine.vocabulary(BYTES).digest == pieces.digest
odd = add("my_odd", ["x"], vocabulary=seqio.PassThroughVocabulary(9), steps=())
out["odd vocabulary"] = refusal(lambda: odd.vocabulary(BYTES))
extra = add("my_extra", "x", vocabulary=seqio.ByteVocabulary(100))
out["extra ids"] = refusal(lambda: extra.vocabulary(BYTES))
words = add("my_words", "x", feature="words")
out["feature"] = refusal(lambda: words.vocabulary(BYTES))
out["split"] = refusal(add("my_test_only", "x", splits=("test",)).shards)
out["near"] = refusal(SeqioTask(mixture_or_task="my_uper").shards)
out["far"] = refusal(SeqioTask(mixture_or_task="zzzzzzzz").shards)

add("many", [f"m{i}" for i in range(2000)]), add("few", [f"f{i}" for i in range(300)])
seqio.MixtureRegistry.add("my_mixture", [("many", 0.7), ("few", 0.3)])
mixture = SeqioTask(mixture_or_task="my_mixture")
mixed = [BYTES.decode(e.ids) for e in read(mixture)]
few = [text for text in mixed if "f" in text]
out["mixture"] = [len(set(few)) == len(few), len(few), len(few) / len(mixed)]
out["mixture again"] = mixed == [BYTES.decode(e.ids) for e in read(mixture)]

for i in range(10):
    (root / f"{i}.txt").write_bytes(f"naïve text {i}\r\n".encode())
texts = Corpus(source=TextFiles(files=str(root / "?.txt")), held_out_fraction=0.2)
seqio.TaskRegistry.add("my_files", source=data_source(texts),
    preprocessors=[seqio.preprocessors.tokenize],
    output_features={"targets": seqio.Feature(BYTE)})
files = SeqioTask(mixture_or_task="my_files")
direct = {e.ids.tobytes() for s in texts.source.shards() for e in texts.source.examples(s, BYTES)}
through = [{e.ids.tobytes() for e in read(files, split)} for split in ("train", "validation")]
out["through seqio"] = [through[0] | through[1] == direct, len(through[0]), len(through[1])]
out["file shards"] = len([s for s in files.shards() if s.split == "train"])

lines = [{"q": f"what is {i}?", "a": f"it is {i}"} for i in range(9)]
(root / "qa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
asked = Corpus(source=Jsonl(files=str(root / "qa.jsonl"), text_key="a", prompt_key="q"),
               held_out_fraction=0.0)
seqio.TaskRegistry.add("my_qa", source=data_source(asked),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={"inputs": seqio.Feature(BYTE, add_eos=False), "targets": seqio.Feature(BYTE)})
qa = SeqioTask(mixture_or_task="my_qa")
out["fine-tuning"] = [(BYTES.decode(e.ids), e.prompt_tokens) for e in read(qa)][:2]
cache = find_or_build(corpus=Corpus(source=qa), vocabulary=BYTES, packing="segments",
                      sequence_length=64, seed=0, cache_directory=root / "caches")
rows = cache.split("train").read(np.arange(cache.split("train").num_rows))
out["fine-tuning rows"] = [int(rows["weight"].sum()), cache.split("train").is_packed]
out["fine-tuning bytes"] = [(e.text_bytes, e.prompt_bytes) for e in read(qa)][0]
out["bytes per token"] = cache.split("train").loss_bytes_per_token

def pairs(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({"inputs": ["a", "b"], "targets": ["", "é"]})
seqio.TaskRegistry.add("unanswered", source=seqio.FunctionDataSource(pairs, splits=("train",)),
    preprocessors=[seqio.preprocessors.tokenize],
    output_features={"inputs": seqio.Feature(BYTE, add_eos=False), "targets": seqio.Feature(BYTE)})
without, answered = read(SeqioTask(mixture_or_task="unanswered"))
out["unanswered"] = [*without, answered.text_bytes, answered.prompt_bytes]

(root / "bad.utf").write_bytes(b"good \xff")
bad = Corpus(source=TextFiles(files=str(root / "bad.utf")))
seqio.TaskRegistry.add("my_bad", source=data_source(bad),
    preprocessors=[seqio.preprocessors.tokenize],
    output_features={"targets": seqio.Feature(BYTE)})
try:
    read(SeqioTask(mixture_or_task="my_bad"))
except Exception as error:
    out["bad utf-8"] = str(error)

def boom(dataset):
    def fail(example):
        raise ValueError("my preprocessor has a bug")
    return dataset.map(fail)
seqio.TaskRegistry.add("my_boom", source=data_source(texts), preprocessors=[boom],
    output_features={"targets": seqio.Feature(BYTE)})
out["boom"] = refusal(lambda: read(SeqioTask(mixture_or_task="my_boom")))

out["no data set"] = refusal(Tfds(dataset="no_such_set:1.0.0", data_dir=str(root)).shards)
import tensorflow_datasets as tfds
class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION, pkg_dir_path = tfds.core.Version("1.0.0"), root
    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))
    def _split_generators(self, manager):
        held_out = self._generate_examples(3, [b"\xff"])
        return {"train": self._generate_examples(12), "validation": held_out}
    def _generate_examples(self, count, more=()):
        for i, text in enumerate([*(f"tiny {i}" for i in range(count)), *more]):
            yield i, {"text": text}
Tiny(data_dir=str(root / "tfds")).download_and_prepare(
    download_config=tfds.download.DownloadConfig(try_download_gcs=False))
tiny = Tfds(dataset="tiny:1.0.0", data_dir=str(root / "tfds"))
found = [read(tiny, split) for split in ("train", "validation")]
out["tfds"] = [sorted(BYTES.decode(e.ids) for e in f if isinstance(e, Example)) for f in found]
out["tfds bad"] = [(e.location, e.reason) for e in found[1] if isinstance(e, BadDocument)]

cache = find_or_build(corpus=Corpus(source=mixture), vocabulary=BYTES, sequence_length=16, seed=0,
                      cache_directory=root / "caches")
train, held = cache.split("train"), cache.split("validation")
out["cache"] = [cache.vocabulary.name, train.documents, held.num_rows]
cache = find_or_build(corpus=Corpus(source=mine), vocabulary=BYTES, sequence_length=2, seed=0,
                      cache_directory=root / "caches")
out["cache of pieces"] = cache.vocabulary.digest == pieces.digest
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    script = folder / "script.py"  # a file: TFDS looks for the one that defines a data set
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[3]
    )


@pytest.fixture(scope="module")
def out(run):
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_tensorflow_is_quiet_and_leaves_the_accelerators_alone(run, out):
    assert out["accelerators"] == 0
    # Nothing of what it prints when it is imported.
    assert not re.search("oneDNN|cudart|cpu_feature_guard|absl::Init", run.stderr)


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


def test_a_mixture_says_that_it_ends_with_its_first_exhausted_task(run, out):
    lines = [line for line in run.stderr.splitlines() if "='my_mixture' ended after" in line]
    assert lines and "one of its 2 tasks" in lines[0] and "Data.components" in lines[0]


def test_a_preprocessor_that_raises_is_named_with_its_line(out):
    assert "='my_boom' cannot be read: ValueError: my preprocessor has a bug (" in out["boom"]
    assert "script.py:" in out["boom"] and "\n" not in out["boom"]


def test_text_may_go_through_a_task_of_ones_own_with_the_same_tokens(out):
    same, train, held = out["through seqio"]
    assert same and (train, held) == (8, 2) and out["file shards"] == 10


def test_inputs_of_a_task_are_prompts_without_loss(out):
    assert out["fine-tuning"] == [["what is 0?it is 0", 10], ["what is 1?it is 1", 10]]
    assert out["fine-tuning rows"] == [9 * len("it is 0" + "e"), True]
    assert out["fine-tuning bytes"] == [17, 10]
    assert out["bytes per token"] == 7 / 8


def test_inputs_without_targets_are_a_bad_document(out):
    location, reason, *counts = out["unanswered"]
    assert location == "unanswered/train-00000-of-00001:1" and counts == [1, 3, 1]
    assert reason.startswith("the feature 'targets' is empty, and a prompt without a completion")


def test_a_tfds_data_set_is_a_source(out):
    assert out["tfds"] == [
        sorted(f"tiny {i}" for i in range(12)),
        sorted(f"tiny {i}" for i in range(3)),
    ]
    ((location, reason),) = out["tfds bad"]
    assert location.startswith("tiny:1.0.0/validation-00000-of-00001:") and "not UTF-8" in reason
    assert "Tfds.dataset='no_such_set:1.0.0' cannot be loaded" in out["no data set"]


def test_a_mistake_in_a_task_is_named(out):
    assert "bad.utf: byte 5 is not UTF-8" in out["bad utf-8"]
    assert "no split 'train' (it has test)" in out["split"]


def test_an_unknown_name_is_answered_with_the_nearest_known(out):
    assert "SeqioTask.mixture_or_task='my_uper'" in out["near"] and "'my_upper'" in out["near"]
    assert "registered: my_extra, my_odd, " in out["far"]
    assert all("\n" not in out[key] for key in ("near", "far"))


def test_a_cache_carries_the_vocabulary_of_its_rows(out):
    vocabulary, documents, held = out["cache"]
    assert vocabulary == "bytes" and documents > 900 and held == 0 and out["cache of pieces"]
