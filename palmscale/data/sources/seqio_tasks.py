"""SeqIO Tasks and Mixtures, and TensorFlow Datasets, as sources."""

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from palmscale.data.sources.records import RecordSource
from palmscale.data.sources.source import (
    SPLITS,
    TRAIN,
    BadDocument,
    Document,
    Example,
    SourceShard,
)
from palmscale.data.sources.task_errors import explained
from palmscale.data.vocabulary import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.observe.load_noise import without_load_noise

_imported: list[ModuleType] = []  # the seqio module, once it is imported and set up


@dataclass(frozen=True, kw_only=True)
class SeqioTask:
    """A SeqIO Task or Mixture that a user's module registers, with its preprocessors.

    Its feature `targets` holds the tokens; if it also has `inputs`, they are the prompt. A Mixture
    samples documents at its rates, the same ones every time, and ends with its first exhausted
    task. Mix components of `Data` instead to keep the rates over any number of epochs.

    Attributes:
        mixture_or_task: its name in SeqIO's registries.
    """

    field = "SeqioTask.mixture_or_task"
    mixture_or_task: str

    def shards(self) -> list[SourceShard]:
        """Returns the shards of a Task's source for each split; a Mixture is one shard per split.

        Raises:
            UserError: the name is not registered, or has no split "train".
        """
        provider = self._provider()
        if TRAIN not in provider.splits:
            raise UserError(
                f"{self.field}={self.mixture_or_task!r} has no split 'train' (it has"
                f" {', '.join(provider.splits)}); add it to the task's source."
            )
        shards = []
        for split in SPLITS:
            if split in provider.splits:
                source = getattr(provider, "source", None)
                count = 1 if source is None else max(1, len(source.list_shards(split)))
                shards += [
                    SourceShard(
                        name=f"{split}-{i:05d}-of-{count:05d}", split=split, has_many_documents=True
                    )
                    for i in range(count)
                ]
        return shards

    def vocabulary(self, given: Vocabulary) -> Vocabulary:
        """Returns the vocabulary of the feature `targets`.

        Raises:
            UserError: palmscale has no equivalent of the SeqIO vocabulary.
        """
        del given
        return _equivalent_vocabulary(self._provider())

    def examples(
        self, shard: SourceShard, vocabulary: Vocabulary
    ) -> Iterator[Example | BadDocument | None]:
        """Yields whole documents in SeqIO's order, without the eod that a preprocessor appended."""
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
            options["copy_pretokenized"] = True  # else a Mixture drops the text

        def read() -> Iterator[dict[str, Any]]:
            dataset = provider.get_dataset(sequence_length=None, **options)
            return dataset.as_numpy_iterator()

        documents = 0
        for example in explained(read, self._what):
            documents += 1
            targets = self._ids(example["targets"], vocabulary)
            prompt = self._ids(example.get("inputs", ()), vocabulary)
            if not len(targets):
                yield self._without_targets(f"{shard.name}:{documents}") if len(prompt) else None
                continue
            ids = np.concatenate([prompt, targets]) if len(prompt) else targets
            prompt_bytes = _text_bytes(example.get("inputs_pretokenized"), prompt, vocabulary)
            text_bytes = _text_bytes(example.get("targets_pretokenized"), targets, vocabulary)
            yield Example(ids, text_bytes + prompt_bytes, "", len(prompt), prompt_bytes)
        if len(tasks := getattr(provider, "tasks", ())) > 1:
            log.warn(
                f"the split {split!r} of {self._what} ended after {documents:,} documents, with the"
                f" first exhausted one of its {len(tasks)} tasks; what is left of the others is not"
                " used. To use all, make each task a component of a mixture: Data.components."
            )

    def _without_targets(self, place: str) -> BadDocument:
        return BadDocument(
            f"{self.mixture_or_task}/{place}",
            "the feature 'targets' is empty, and a prompt without a completion teaches nothing;"
            " filter such examples in the task's preprocessors.",
        )

    @property
    def _what(self) -> str:
        return f"{self.field}={self.mixture_or_task!r}"

    def _ids(self, value: Any, vocabulary: Vocabulary) -> np.ndarray:
        ids = np.asarray(value, dtype=np.int32)
        if ids.ndim != 1:
            raise UserError(
                f"{self.field}={self.mixture_or_task!r} yields features of shape {ids.shape};"
                " its last preprocessor must yield a 1-D array of token ids per document."
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
            else f"registered: {', '.join(known) or 'none'}."
        )
        raise UserError(
            f"{self.field}={name!r} is not registered with SeqIO; {hint} Correct the name, or add"
            " the module that registers it to Data.import_modules."
        )


@dataclass(frozen=True, kw_only=True)
class Tfds(RecordSource):
    """A dataset of TensorFlow Datasets, such as C4; its split "validation" is used if present.

    Attributes:
        dataset: name, config and version: `c4/en:3.0.1`.
        data_dir: folder of the prepared dataset, which may be gs://; None: TFDS's default.
    """

    field = "Tfds.dataset"
    dataset: str
    data_dir: str | None = None

    def shards(self) -> list[SourceShard]:
        """Returns the dataset's files.

        Raises:
            UserError: it cannot be loaded, or has no split "train".
        """
        source = self._source()
        try:
            counts = {
                split: len(source.list_shards(split)) for split in SPLITS if split in source.splits
            }
        except Exception as error:  # the exceptions of TFDS have no common base class
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self.field}={self.dataset!r} cannot be loaded ({first}); expected a prepared"
                " dataset: correct its name, or Tfds.data_dir."
            ) from None
        if TRAIN not in counts:
            raise UserError(
                f"{self.field}={self.dataset!r} has no split 'train'; choose another dataset."
            )
        return [
            SourceShard(
                name=f"{split}-{number:05d}-of-{count:05d}",
                split=split if len(counts) > 1 else None,
                stamp=self.dataset,
                has_many_documents=True,
            )
            for split, count in counts.items()
            for number in range(count)
        ]

    def documents(self, shard: SourceShard) -> Iterator[Document | BadDocument]:
        """Yields one document per example."""
        seqio = import_seqio()
        split, number, _, count = shard.name.split("-")
        info = seqio.ShardInfo(index=int(number), num_shards=int(count))

        def read() -> Iterator[dict[str, Any]]:
            dataset = self._source().get_dataset(split=split, shuffle=False, shard_info=info)
            return dataset.as_numpy_iterator()

        what = f"{self.field}={self.dataset!r}"
        for row, example in enumerate(explained(read, what), 1):
            yield self.from_record(example, f"{self.dataset}/{shard.name}:{row}")

    def _source(self) -> Any:
        seqio = import_seqio()
        return seqio.TfdsDataSource(tfds_name=self.dataset, tfds_data_dir=self.data_dir)


def _text_bytes(text: Any, ids: np.ndarray, vocabulary: Vocabulary) -> int:
    """Returns the UTF-8 bytes of a feature: of its text if the task keeps it, else of its ids'."""
    return len(text if isinstance(text, bytes) else vocabulary.decode(ids).encode("utf-8"))


def _equivalent_vocabulary(provider: Any) -> Vocabulary:
    seqio = import_seqio()
    if "targets" not in provider.output_features:
        raise UserError(
            f"{SeqioTask.field}={provider.name!r} has no output feature 'targets' (it has"
            f" {', '.join(provider.output_features)}); rename the feature with the tokens."
        )
    theirs = provider.output_features["targets"].vocabulary
    if isinstance(theirs, seqio.ByteVocabulary) and not theirs.extra_ids:
        return ByteVocabulary()
    if isinstance(theirs, seqio.SentencePieceVocabulary) and not theirs.extra_ids:
        return SentencePieceVocabulary(theirs.sentencepiece_model_file)
    raise UserError(
        f"{SeqioTask.field}={provider.name!r} uses {type(theirs).__name__} with"
        f" {theirs.extra_ids} extra ids; its feature 'targets' must use seqio.ByteVocabulary or"
        " seqio.SentencePieceVocabulary without extra ids."
    )


def import_seqio() -> ModuleType:
    """Returns the seqio module, with TensorFlow silenced and kept off the accelerators.

    The first call takes about ten seconds.

    Raises:
        UserError: SeqIO or TensorFlow is not installed.
    """
    if _imported:
        return _imported[0]
    try:
        with without_load_noise():
            import seqio
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
            # RuntimeError: a user's module has already initialized TensorFlow's devices.
            with contextlib.suppress(RuntimeError):
                tf.config.set_visible_devices([], "GPU")
    except ModuleNotFoundError as error:
        raise UserError(
            f"a SeqIO task needs {error.name!r}, which is not installed; install it with `pip"
            " install palmscale`, or build the cache on another machine and copy its folder here."
        ) from None
    _imported.append(seqio)
    return seqio
