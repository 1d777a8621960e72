"""Training a vocabulary on the text that a run would train on."""

import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from palmscale.data.dataset import Data
from palmscale.data.sources.source import TRAIN, text_bytes
from palmscale.data.vocab.document_sample import sample_documents
from palmscale.data.vocab.sentencepiece_model import train_model
from palmscale.data.vocabulary import SentencePieceVocabulary
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.storage.place import local_path

_T = TypeVar("_T")


def train_vocabulary(
    data: Data,
    path: str | os.PathLike,
    *,
    size: int,
    model_type: str = "bpe",
    max_bytes: int = 200_000_000,
    seed: int = 0,
) -> SentencePieceVocabulary:
    """Trains a SentencePiece model on the training split of `data` and writes it to `path`.

    Args:
        data: the text; held-out documents are never read.
        path: of the model file. A different model that is there already is not replaced.
        size: number of pieces.
        model_type: `bpe`, or `unigram`, which takes many times as long.
        max_bytes: size of the sample of the text, in UTF-8 bytes.
        seed: of the sample.

    Returns:
        The vocabulary of the written file.

    Raises:
        UserError: `path` cannot be written, or the text does not suit the size.
    """
    path = local_path(path)
    with _written_atomically(path) as write:
        if path.exists():
            log.warn(f"{path} exists; it is not replaced if the new model differs.")
        documents = sample_documents(data, TRAIN, max_bytes=max_bytes, seed=seed)
        megabytes = sum(map(text_bytes, documents)) / 1e6
        activity = (
            f"Training {size:,} pieces ({model_type}) on {len(documents):,} documents,"
            f" {megabytes:,.1f} MB"
        )
        log.say(f"{activity}. This takes a while.")
        texts = [text for document in documents for text in (document.prompt, document.text)]
        model = _interruptible(
            lambda: train_model(texts, size=size, model_type=model_type), activity
        )
        write(model)
    return SentencePieceVocabulary(str(path))


@contextlib.contextmanager
def _written_atomically(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yields the function that writes the file; raises UserError at once if it cannot be."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "Is a directory")
        partial.touch()
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); use a file in an existing, writable"
            " folder."
        ) from None

    def write(content: bytes) -> None:
        if path.exists() and path.read_bytes() != content:
            raise UserError(
                f"{path} contains a different model, which is not replaced; remove it, or use"
                " another file."
            )
        partial.write_bytes(content)
        partial.replace(path)

    try:
        yield write
    finally:
        partial.unlink(missing_ok=True)


def _interruptible(function: Callable[[], _T], activity: str) -> _T:
    """Returns `function()`, run in a thread so that Ctrl-C is handled while C++ code runs."""
    result: concurrent.futures.Future[_T] = concurrent.futures.Future()

    def call() -> None:
        try:
            result.set_result(function())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    with log.console.status(activity):
        return result.result()
