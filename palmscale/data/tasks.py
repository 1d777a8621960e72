"""The corpus as a SeqIO Task or Mixture: the only way from text to tokens."""

import contextlib
import difflib
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from palmscale.data import sources
from palmscale.data.sources import TRAIN, VALIDATION, Corpus
from palmscale.data.vocab import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from palmscale.errors import UserError

# An exception that passes through TensorFlow comes out as text; kept here, it comes out as it went
# in.
_failures: dict[str, UserError] = {}
_ready: list[ModuleType] = []  # the seqio module, once it is imported and set up
_NOISE = re.compile(
    rb"oneDNN|cudart|cuda drivers|cuInit|cpu_feature_guard|rebuild TensorFlow|absl::Init"
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
            f"building a cache needs {error.name!r}, which is not installed - SeqIO and TensorFlow"
            " turn text into tokens - build the cache on another machine with `palmscale data"
            " build` and copy its directory here, or install the full package with `pip install"
            " palmscale`"
        ) from None
    _ready.append(seqio)
    return seqio


def task_of(corpus: Corpus, vocabulary: Vocabulary) -> Any:
    """Returns the SeqIO Task or Mixture of the corpus, registered.

    Local text gets a Task named by its definition. A `mixture_or_task` must have been registered by
    then, by importing the user's module; raises UserError with the nearest known names otherwise.
    """
    seqio = import_seqio()
    if corpus.kind == "mixture_or_task":
        return _registered(seqio, corpus.mixture_or_task)
    definition = json.dumps([corpus.definition(), os.getcwd(), vocabulary.digest])
    name = f"palmscale_{corpus.kind}_{hashlib.sha256(definition.encode()).hexdigest()[:12]}"
    if name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(name)
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            _dataset_function(corpus, name), splits=(TRAIN, VALIDATION)
        ),
        preprocessors=[seqio.preprocessors.tokenize],
        output_features={"targets": seqio.Feature(_as_seqio(vocabulary), add_eos=False)},
    )


def vocabulary_of(corpus: Corpus, vocabulary: Vocabulary | None = None) -> Vocabulary:
    """Returns the vocabulary the corpus is encoded by: a mixture's or task's own, else the given.

    Raises UserError for a SeqIO vocabulary that has no equal here.
    """
    if corpus.kind != "mixture_or_task":
        return vocabulary or ByteVocabulary()
    provider, seqio = task_of(corpus, ByteVocabulary()), import_seqio()
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


def documents(
    corpus: Corpus, vocabulary: Vocabulary, split: str
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (token ids, int32, without eod; UTF-8 bytes of the text) of each document, once.

    All goes through SeqIO's get_dataset, so a task's own preprocessors apply. `sequence_length` is
    None: documents come whole. An eod that a preprocessor appended is taken off again. A mixture
    samples documents at its rates, the same ones every time, and ends when its first task does,
    unless the mixture was given another `sample_fn`: the rates hold from the first document to the
    last, and what the longer tasks have left is not read. A task without a split "validation"
    yields nothing for it.
    """
    provider = task_of(corpus, vocabulary)
    if split not in provider.splits:
        if split != VALIDATION:
            raise UserError(
                f"MIXTURE_OR_TASK={provider.name!r} has no split {split!r} (it has"
                f" {', '.join(provider.splits)}) - training reads it - add it to the task's source"
            )
        return
    options = {
        "split": split,
        "shuffle": False,
        "seed": 0,
        "num_epochs": 1,
        "try_in_mem_cache": False,
    }
    if not hasattr(provider, "preprocessors"):
        options["copy_pretokenized"] = True  # a Mixture drops the text otherwise
    _failures.pop(provider.name, None)
    dataset = provider.get_dataset(sequence_length=None, **options)
    for example in dataset.as_numpy_iterator():
        ids = np.asarray(example["targets"], dtype=np.int32)
        if ids.ndim != 1:
            raise UserError(
                f"MIXTURE_OR_TASK={provider.name!r} gives targets of shape {ids.shape} - a document"
                " is a 1-D array of token ids - let the last preprocessor give that"
            )
        if len(ids) and ids[-1] == vocabulary.eod_id:
            ids = ids[:-1]
        text = example.get("targets_pretokenized")
        if not isinstance(text, bytes):
            text = vocabulary.decode(ids).encode("utf-8")
        if len(ids):
            yield ids, len(text)
    if provider.name in _failures:
        raise _failures.pop(provider.name)


def _registered(seqio, name: str):
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
        f"MIXTURE_OR_TASK={name!r} is not registered with SeqIO - a module must register it before"
        f" - {hint} import your module in the gin file, or correct the name"
    )


def _dataset_function(corpus: Corpus, name: str):
    import tensorflow as tf

    def dataset(split: str, shuffle_files: bool, seed: int | None = None):
        del shuffle_files, seed  # the cache shuffles documents

        def texts():
            try:
                for _, text in sources.documents(corpus, split):
                    yield {"targets": text}
            except UserError as error:
                _failures[name] = error

        spec = {"targets": tf.TensorSpec(shape=(), dtype=tf.string)}
        return tf.data.Dataset.from_generator(texts, output_signature=spec)

    return dataset


def _as_seqio(vocabulary: Vocabulary):
    """Returns a SeqIO vocabulary that gives this one's ids."""
    import seqio
    import tensorflow as tf

    if isinstance(vocabulary, ByteVocabulary):
        return seqio.ByteVocabulary()

    class Adapter(seqio.PassThroughVocabulary):
        # SeqIO's own SentencePiece op is two to six times slower than the sentencepiece package and
        # loses a literal U+2581; prompts are encoded by `vocabulary`, so training text must be as
        # well.
        def _encode(self, s):
            return vocabulary.encode(s).tolist()

        def _encode_tf(self, s):
            ids = tf.numpy_function(
                lambda text: vocabulary.encode(text.decode("utf-8")), [s], tf.int32
            )
            return tf.ensure_shape(ids, [None])

        def _decode(self, ids):
            return vocabulary.decode(ids)

    return Adapter(vocabulary.size, eos_id=vocabulary.eod_id)


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
