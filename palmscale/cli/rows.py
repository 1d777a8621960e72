"""The row cache of a run: opened, or built on first use with a progress bar."""

import contextlib
from collections.abc import Iterator

from palmscale.cli.run import Data
from palmscale.data.cache import RowCache, open_or_build
from palmscale.data.vocab import ByteVocabulary, SentencePieceVocabulary
from palmscale.errors import UserError
from palmscale.observe import log, progress


def open_rows(data: Data) -> RowCache:
    """Returns the cache that `data` names or describes.

    Raises:
        UserError: its sequence length is not the one asked for.
    """
    if data.cache is not None:
        cache = RowCache.open(data.cache)
        if cache.sequence_length != data.sequence_length:
            raise UserError(
                f"CACHE={data.cache} has rows of {cache.sequence_length} tokens and "
                f"SEQUENCE_LENGTH={data.sequence_length}; make them equal."
            )
        return cache
    vocabulary = (
        ByteVocabulary()
        if data.sentencepiece_model is None
        else SentencePieceVocabulary(data.sentencepiece_model)
    )
    with _building() as advance:
        cache = open_or_build(
            corpus=data.corpus,
            vocabulary=vocabulary,
            sequence_length=data.sequence_length,
            seed=data.seed,
            cache_directory=data.cache_directory,
            progress=advance,
        )
    train = cache.split("train")
    log.say(f"Rows of {cache.sequence_length} tokens: {train.num_rows:,} to train on, "
            f"{cache.split('validation').num_rows:,} held out, in {cache.directory}.")  # fmt: skip
    return cache


@contextlib.contextmanager
def _building() -> Iterator[object]:
    """Gives a progress callback whose bar appears at its first call: a built cache shows none."""
    with contextlib.ExitStack() as stack:
        shown: dict[str, object] = {}

        def advance(done_bytes: int, total_bytes: int | None) -> None:
            if not shown:
                shown["advance"] = stack.enter_context(
                    progress.bar("Building the row cache", total_bytes)
                )
                shown["done"] = 0
            shown["advance"](done_bytes - shown["done"])
            shown["done"] = done_bytes

        yield advance
