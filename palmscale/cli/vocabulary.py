"""Vocabularies from the command line: trained on a corpus, and checked for what they keep."""

import argparse
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from palmscale.cli import gin_config, tables
from palmscale.cli.run import Data
from palmscale.data import vocab_check, vocab_training
from palmscale.data.document_sample import DocumentSample, text_bytes
from palmscale.data.sources import TRAIN, VALIDATION, Corpus, Document
from palmscale.data.vocab import SentencePieceVocabulary
from palmscale.errors import UserError
from palmscale.observe import log, progress

_MEASURED_BYTES = 20_000_000  # of held-out text

_T = TypeVar("_T")


def train(args: argparse.Namespace) -> None:
    """`palmscale vocab train`: writes a SentencePiece model of the corpus's training split."""
    log.set_up()
    out = Path(args.out).expanduser()
    with _written_whole(out) as write:
        if out.exists():
            log.warn(f"--out={out} exists and is kept; a different model would be refused.")
        documents = [
            document
            for part in _corpora(args)
            for document in _read(part, TRAIN, max_bytes=args.max_bytes, seed=args.seed)
        ]
        megabytes = sum(map(text_bytes, documents)) / 1e6
        said = (
            f"Training {args.size:,} pieces ({args.model_type}) on {len(documents):,} documents,"
            f" {megabytes:,.1f} MB"
        )
        log.say(f"{said}. This takes a while.")
        texts = [text for document in documents for text in (document.prompt, document.text)]
        model = _awaited(
            lambda: vocab_training.train(texts, size=args.size, model_type=args.model_type), said
        )
        write(model)
    print(f"{out}: {args.size:,} pieces. Next: palmscale vocab check {out}")


def check(args: argparse.Namespace) -> None:
    """`palmscale vocab check`: prints what a model keeps, and its bytes per token on held-out text.

    Raises UserError with the first property that does not hold.
    """
    log.set_up()
    vocabulary = SentencePieceVocabulary(args.model)
    shown = vocab_check.check(vocabulary)
    documents = [
        # The parts of a mixture are counted apart, whatever their own groups.
        document._replace(group=part.name or document.group)
        for part in _corpora(args)
        for document in _read(part, VALIDATION, max_bytes=_MEASURED_BYTES)
    ]
    groups = vocab_check.count_tokens(vocabulary, documents)
    tables.print_table(("property", "shown by"), shown)
    print()
    tables.print_facts([("pieces", f"{vocabulary.size:,}"), ("digest", vocabulary.digest)])
    print()
    _print_counts(groups)


def _print_counts(groups: dict[str, vocab_check.Counts]) -> None:
    if not groups:
        print("Nothing of this corpus is held out: bytes per token are not measured.")
        return
    rows = [*groups.items()] if len(groups) > 1 else []
    rows.append(("all", vocab_check.Counts(*map(sum, zip(*groups.values())))))
    headings = ("held out", "documents", "bytes", "tokens", "bytes/token")
    cells = [
        [name or "(no group)", *(f"{count:,}" for count in counts),
         f"{counts.utf8_bytes / counts.tokens:.3f}"]
        for name, counts in rows
    ]  # fmt: skip
    tables.print_table(headings, cells, right=range(1, len(headings)))


class _Part(NamedTuple):
    """A corpus of a mixture, or one by itself, which has no name and the whole share."""

    name: str
    corpus: Corpus
    share: float


def _corpora(args: argparse.Namespace) -> list[_Part]:
    """Returns the parts that have weight at the first step."""
    gin_config.load(args.gin_file, args.gin_bindings)
    data = gin_config.bound_call(Data)
    weights = data.weights_at(0)
    parts = []
    for name, part in data.parts().items():
        if part.cache is not None:
            given = (
                f"the component {name} has cache={part.cache}, which"
                if name
                else (f"CACHE={part.cache}")
            )
            remedy = "bind its Component.corpus" if name else "give text, as TEXT_FILES='my/*.txt'"
            raise UserError(
                f"{given} holds rows of tokens - a vocabulary needs text - {remedy} in its place"
            )
        if weights[name]:
            parts.append(_Part(name, part.corpus, weights[name] / sum(weights.values())))
    return parts


def _read(part: _Part, split: str, *, max_bytes: int, seed: int = 0) -> list[Document]:
    """Returns a sample of the part's documents, its share of `max_bytes` in all."""
    own_bytes = max(1, round(max_bytes * part.share))
    sample = DocumentSample(corpus=part.corpus, split=split, max_bytes=own_bytes, seed=seed)
    shards, total = len(sample.shards), len(sample.all_shards)
    files = f"{total:,} files" if shards == total else f"{shards:,} of {total:,} files"
    said = f"Reading {files} of {part.name}" if part.name else f"Reading {files}"
    with progress.bar(said) as update:
        return sample.documents(update)


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Gives the function that writes the file, which is there as a whole or not at all.

    That it can be written is known at once. Raises UserError where it cannot be, or would replace
    other content.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "Is a directory")
        partial.touch()
    except OSError as error:
        raise UserError(
            f"--out={path}: {error.strerror} - needed is the name of a file in a folder that exists"
            " and can be written to - correct --out"
        ) from None

    def write(content: bytes) -> None:
        if path.exists() and path.read_bytes() != content:
            raise UserError(
                f"--out={path} holds another model, which is kept - needed is a free name - remove"
                " the file or change --out"
            )
        partial.write_bytes(content)
        partial.replace(path)

    try:
        yield write
    finally:
        partial.unlink(missing_ok=True)


def _awaited(function: Callable[[], _T], said: str) -> _T:
    """Returns `function()`, run in a thread of its own so that Ctrl-C is heard meanwhile."""
    result: concurrent.futures.Future[_T] = concurrent.futures.Future()

    def call() -> None:
        try:
            result.set_result(function())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    with log.console.status(said):
        return result.result()
