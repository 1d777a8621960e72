"""SeqIO: its Tasks and Mixtures as a source of rows, and every source of text as one of SeqIO's."""

import contextlib
import difflib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from palmscale.data.records import from_record
from palmscale.data.sources import (
    FAIL,
    SPLITS,
    TRAIN,
    BadDocument,
    Corpus,
    Example,
    Shard,
    TextSource,
)
from palmscale.data.vocab import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from palmscale.errors import UserError

_ready: list[ModuleType] = []  # the seqio module, once it is imported and set up
_NOISE = re.compile(
    rb"oneDNN|cudart|cuda drivers|cuInit|cpu_feature_guard|rebuild TensorFlow|absl::Init"
)


@dataclass(frozen=True, kw_only=True)
class SeqioTask:
    """A SeqIO Task or Mixture that a module of the user's registers; its preprocessors apply.

    Its feature `targets` holds the tokens. One that has `inputs` as well is for fine-tuning: they
    are the prompt. A Mixture samples documents at its rates, the same ones every time, and ends
    when its first task does; the rates of data.mixture hold for ever.

    Attributes:
        mixture_or_task: its name in SeqIO's registries.
    """

    setting = "MIXTURE_OR_TASK"
    mixture_or_task: str

    def shards(self) -> list[Shard]:
        """Returns the shards of a Task's own source for each split; a Mixture is one shard.

        Raises UserError for a name that is not registered, or has no split "train".
        """
        provider = self._provider()
        if TRAIN not in provider.splits:
            raise UserError(
                f"MIXTURE_OR_TASK={self.mixture_or_task!r} has no split 'train' (it has"
                f" {', '.join(provider.splits)}) - training reads it - add it to the task's source"
            )
        shards = []
        for split in SPLITS:
            if split in provider.splits:
                source = getattr(provider, "source", None)
                count = 1 if source is None else max(1, len(source.list_shards(split)))
                shards += [
                    Shard(name=f"{split}-{i:05d}-of-{count:05d}", split=split, holds_many=True)
                    for i in range(count)
                ]
        return shards

    def vocabulary(self, given: Vocabulary) -> Vocabulary:
        """Returns the vocabulary of `targets`.

        Raises UserError for a SeqIO vocabulary that has no equal here.
        """
        del given
        return _as_ours(self._provider())

    def examples(
        self, shard: Shard, vocabulary: Vocabulary
    ) -> Iterator[Example | BadDocument | None]:
        """Yields the documents whole, in SeqIO's order; an eod that was appended is taken off."""
        provider, seqio = self._provider(), import_seqio()
        split, number, _, count = shard.name.split("-")
        options: dict[str, Any] = {
            "split": split,
            "shuffle": False,
            "seed": 0,
            "num_epochs": 1,
            "try_in_mem_cache": False,
        }
        if int(count) > 1:
            options["shard_info"] = seqio.ShardInfo(index=int(number), num_shards=int(count))
        if not hasattr(provider, "preprocessors"):
            options["copy_pretokenized"] = True  # a Mixture drops the text otherwise
        dataset = provider.get_dataset(sequence_length=None, **options)
        for example in dataset.as_numpy_iterator():
            targets = self._ids(example["targets"], vocabulary)
            prompt = self._ids(example.get("inputs", ()), vocabulary)
            text = example.get("targets_pretokenized")
            if not isinstance(text, bytes):
                text = vocabulary.decode(targets).encode("utf-8")
            ids = np.concatenate([prompt, targets]) if len(prompt) else targets
            yield Example(ids, len(text), "", len(prompt)) if len(targets) else None

    def _ids(self, value: Any, vocabulary: Vocabulary) -> np.ndarray:
        ids = np.asarray(value, dtype=np.int32)
        if ids.ndim != 1:
            raise UserError(
                f"MIXTURE_OR_TASK={self.mixture_or_task!r} gives features of shape {ids.shape} - a"
                " document is a 1-D array of token ids - let the last preprocessor give that"
            )
        return ids[:-1] if len(ids) and ids[-1] == vocabulary.eod_id else ids

    def _provider(self) -> Any:
        seqio = import_seqio()
        name = self.mixture_or_task
        try:
            return seqio.get_mixture_or_task(name)
        except ValueError:
            known = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"registered are {known or 'none'};"
        )
        raise UserError(
            f"MIXTURE_OR_TASK={name!r} is not registered with SeqIO - a module must register it"
            f" before - {hint} import your module in the gin file, or correct the name"
        )


@dataclass(frozen=True, kw_only=True)
class Tfds(TextSource):
    """A TensorFlow Datasets data set, such as C4, with its own split "validation" if it has one.

    Attributes:
        dataset: name, config and version: `c4/en:3.0.1`.
        data_dir: where it is prepared, also gs://; None: TFDS's own default.
        text_key: the feature with the text.
        prompt_key: the feature with a text before it that is given and has no loss; None: none.
        group_key: the feature by which documents are counted apart; None: one group.
    """

    setting = "TFDS_DATASET"
    dataset: str
    data_dir: str | None = None
    text_key: str = "text"
    prompt_key: str | None = None
    group_key: str | None = None

    def shards(self) -> list[Shard]:
        """Returns the data set's files.

        Raises UserError where it cannot be loaded or has no split "train".
        """
        source = self._source()
        try:
            counts = {
                split: len(source.list_shards(split)) for split in SPLITS if split in source.splits
            }
        except Exception as error:  # whatever TFDS raises: it has no base class
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"TFDS_DATASET={self.dataset!r} cannot be loaded ({first}) - needed is a prepared"
                " data set - correct the name, or data_dir"
            ) from None
        if TRAIN not in counts:
            raise UserError(
                f"TFDS_DATASET={self.dataset!r} has no split 'train' - training reads it - name"
                " another data set"
            )
        return [
            Shard(
                name=f"{split}-{number:05d}-of-{count:05d}",
                split=split if len(counts) > 1 else None,
                stamp=self.dataset,
                holds_many=True,
            )
            for split, count in counts.items()
            for number in range(count)
        ]

    def documents(self, shard: Shard) -> Iterator[Any]:
        """Yields a document for each example."""
        seqio = import_seqio()
        split, number, _, count = shard.name.split("-")
        info = seqio.ShardInfo(index=int(number), num_shards=int(count))
        dataset = self._source().get_dataset(split=split, shuffle=False, shard_info=info)
        for row, example in enumerate(dataset.as_numpy_iterator(), 1):
            yield from_record(example, f"{self.dataset}/{shard.name}:{row}", self)

    def _source(self) -> Any:
        seqio = import_seqio()
        return seqio.TfdsDataSource(tfds_name=self.dataset, tfds_data_dir=self.data_dir)


def data_source(corpus: Corpus) -> Any:
    """Returns a corpus of text as a SeqIO DataSource, for Tasks of one's own.

    Its examples have `targets`, and `inputs` where documents have prompts: strings, for SeqIO's
    `tokenize` to follow. A bad document raises UserError, unless the corpus skips it.
    """
    seqio = import_seqio()
    import tensorflow as tf

    shards = {shard.name: shard for shard in corpus.source.shards()}
    split_of = corpus.split_of(shards.values())
    signature = {"targets": tf.TensorSpec((), tf.string)}
    if getattr(corpus.source, "prompt_key", None):
        signature["inputs"] = tf.TensorSpec((), tf.string)

    def texts(split: str, names: list[str]) -> Iterator[dict[str, str]]:
        for name in names:
            for number, document in enumerate(corpus.source.documents(shards[name])):
                if isinstance(document, BadDocument):
                    if corpus.on_bad_document == FAIL:
                        raise UserError(f"{document.place}: {document.why}")
                elif document.text and split_of(shards[name], number) == split:
                    values = {"targets": document.text, "inputs": document.prompt}
                    yield {feature: values[feature] for feature in signature}

    class CorpusSource(seqio.DataSource):
        def __init__(self):
            super().__init__(splits=SPLITS)

        @property
        def supports_arbitrary_sharding(self):
            return False

        def list_shards(self, split):
            return list(shards)

        def get_dataset(self, split=TRAIN, shuffle=True, seed=None, shard_info=None, **more):
            del shuffle, seed, more  # the cache shuffles documents
            info = shard_info or seqio.ShardInfo(index=0, num_shards=1)
            names = list(shards)[info.index :: info.num_shards]
            return tf.data.Dataset.from_generator(
                lambda: texts(split, names), output_signature=signature
            )

    return CorpusSource()


def _as_ours(provider: Any) -> Vocabulary:
    seqio = import_seqio()
    if "targets" not in provider.output_features:
        raise UserError(
            f"MIXTURE_OR_TASK={provider.name!r} has no output feature 'targets' (it has"
            f" {', '.join(provider.output_features)}) - a decoder trains on 'targets' - rename the"
            " feature"
        )
    theirs = provider.output_features["targets"].vocabulary
    if isinstance(theirs, seqio.ByteVocabulary) and not theirs.extra_ids:
        return ByteVocabulary()
    if isinstance(theirs, seqio.SentencePieceVocabulary) and not theirs.extra_ids:
        return SentencePieceVocabulary(theirs.sentencepiece_model_file)
    raise UserError(
        f"MIXTURE_OR_TASK={provider.name!r} uses {type(theirs).__name__} with {theirs.extra_ids}"
        " extra ids - known are seqio.ByteVocabulary and seqio.SentencePieceVocabulary without"
        " extra ids - give the feature 'targets' one of these"
    )


def import_seqio() -> ModuleType:
    """Returns the seqio module, with TensorFlow kept quiet and away from the accelerators.

    Raises UserError where it is not installed. Takes some ten seconds the first time.
    """
    if _ready:
        return _ready[0]
    try:
        with _without_noise():
            import seqio
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
            with contextlib.suppress(
                RuntimeError
            ):  # in use already: a user's module started TensorFlow
                tf.config.set_visible_devices([], "GPU")
    except ModuleNotFoundError as error:
        raise UserError(
            f"a SeqIO task needs {error.name!r}, which is not installed - SeqIO and TensorFlow read"
            " it - build the cache on another machine with `palmscale data build` and copy its"
            " directory here, or install the full package with `pip install palmscale`"
        ) from None
    _ready.append(seqio)
    return seqio


@contextlib.contextmanager
def _without_noise():
    """Holds back what TensorFlow's C++ prints while it loads; anything else is printed afterwards.

    No setting silences those lines: they are written before its logging is set up.
    """
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            held.seek(0)
            with os.fdopen(stderr, "wb") as out:
                out.writelines(line for line in held if not _NOISE.search(line))
