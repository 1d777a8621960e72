"""A corpus: a source of documents, and which of them are held out for evaluation."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from palmscale.data.sources.held_out import SplitOf, split_of
from palmscale.data.sources.huggingface import HuggingFace
from palmscale.data.sources.jsonl_parquet import Jsonl, Parquet, Pile
from palmscale.data.sources.records import RecordSource
from palmscale.data.sources.seqio_tasks import SeqioTask, Tfds
from palmscale.data.sources.source import Document, Source, SourceShard, TextSource, text_bytes
from palmscale.data.sources.text_files import SourceDirectories, StandardLibrary, TextFiles
from palmscale.errors import UserError

FAIL, SKIP = "fail", "skip"

Files = str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents to train on, the fraction to hold out, and what to do with bad documents.

    Whole units are held out: files, or top-level packages of source code. If no choice of files
    comes close to `held_out_fraction` of the bytes and the files hold many documents each,
    documents are held out one by one; see `held_out.split_of`. A single document is never held out.
    A source that has a split "validation" keeps it.

    Attributes:
        source: where the documents come from.
        held_out_fraction: of the text, for evaluation: at least 0 and below 1.
        on_bad_document: `fail`; or `skip`, which counts them in the manifest and names the first.
            A damaged file's rest counts as its documents if their number is known.

    Raises:
        UserError: a field is out of range.
    """

    source: Source
    held_out_fraction: float = 0.05
    on_bad_document: str = FAIL

    def __post_init__(self) -> None:
        if isinstance(self.source, str) or not hasattr(self.source, "shards"):
            raise UserError(
                f"Corpus.source={self.source!r} is not a source of documents; expected for example"
                " TextFiles(files='my/*.txt')."
            )
        if not 0 <= self.held_out_fraction < 1:
            raise UserError(
                f"Corpus.held_out_fraction={self.held_out_fraction} is out of range; expected at"
                " least 0 and below 1, for example 0.05."
            )
        if self.on_bad_document not in (FAIL, SKIP):
            raise UserError(
                f"Corpus.on_bad_document={self.on_bad_document!r} is unknown; use {FAIL!r} or"
                f" {SKIP!r}."
            )

    def definition(self) -> dict[str, Any]:
        """Returns the fields that determine the documents, ready for JSON."""
        fields = {key: value for key, value in asdict(self.source).items() if value}
        return {
            "source": {"class": type(self.source).__name__, **fields},
            "held_out_fraction": self.held_out_fraction,
            "on_bad_document": self.on_bad_document,
        }

    def split_of(self, shards: Iterable[SourceShard]) -> SplitOf:
        """Returns the function from (shard, number of a document in it) to the split's name.

        `shards` are all shards of the source: which documents are held out depends on all of them.
        """
        is_text = isinstance(self.source, TextSource)
        return split_of(shards, self.held_out_fraction, self._text_sizes if is_text else None)

    def _text_sizes(self, shard: SourceShard) -> Iterator[int]:
        for document in self.source.documents(shard):
            is_text = isinstance(document, Document) and document.text
            yield text_bytes(document) if is_text else 0


def one_of(
    *,
    text_files: Files | None = None,
    jsonl_files: Files | None = None,
    pile_files: Files | None = None,
    parquet_files: Files | None = None,
    hf_dataset: str | None = None,
    tfds_dataset: str | None = None,
    source_directories: Files | None = None,
    mixture_or_task: str | None = None,
    text_key: str = "text",
    prompt_key: str | None = None,
    separator: str = "",
) -> Source:
    """Returns the one source that is given, or Python's standard library if none is.

    Args:
        text_files: UTF-8 files, one document each: a glob pattern, or several.
        jsonl_files: JSON lines, one document each: a pattern, or several.
        pile_files: The Pile's files, counted by set: a pattern, or several.
        parquet_files: Parquet, one document per row: a pattern, or several.
        hf_dataset: a Hugging Face data set: a name on the hub, or a local folder.
        tfds_dataset: a prepared TensorFlow Datasets data set, such as `c4/en:3.0.1`.
        source_directories: folders whose `.py` files are read, tests apart.
        mixture_or_task: a SeqIO Task or Mixture, by its registered name; its features `inputs` and
            `targets` are prompt and completion.
        text_key: key of a record's text, in JSON lines, Parquet, Hugging Face and TFDS data sets.
        prompt_key: key of the prompt in the same sources; None: no prompt.
        separator: text between the prompt and the completion.

    Raises:
        UserError: more than one is given, one is empty, or the one given has no prompts.
    """
    keys = {"text_key": text_key, "prompt_key": prompt_key, "separator": separator}
    choices = {
        "text_files": (text_files, lambda value: TextFiles(files=value)),
        "jsonl_files": (jsonl_files, lambda value: Jsonl(files=value, **keys)),
        "pile_files": (pile_files, lambda value: Pile(files=value)),
        "parquet_files": (parquet_files, lambda value: Parquet(files=value, **keys)),
        "hf_dataset": (hf_dataset, lambda value: HuggingFace(dataset=value, **keys)),
        "tfds_dataset": (tfds_dataset, lambda value: Tfds(dataset=value, **keys)),
        "source_directories": (
            source_directories,
            lambda value: SourceDirectories(directories=value),
        ),
        "mixture_or_task": (mixture_or_task, lambda value: SeqioTask(mixture_or_task=value)),
    }
    given = [(name, value, make) for name, (value, make) in choices.items() if value is not None]
    for name, value, _ in given:
        if not value:
            raise UserError(
                f"one_of.{name}={value!r} is empty; name the text, or set it to None for another"
                " source."
            )
    if len(given) > 1:
        names = " and ".join(f"one_of.{name}" for name, *_ in given)
        raise UserError(f"{names} are all set; a corpus has one source: keep one of them.")
    source = given[0][2](given[0][1]) if given else StandardLibrary()
    if prompt_key is not None and not isinstance(source, (RecordSource, SeqioTask)):
        what = f"one_of.{given[0][0]} is" if given else "Python's standard library is"
        raise UserError(
            f"one_of.prompt_key={prompt_key!r} asks for prompts, but {what} plain text; set"
            " one_of.jsonl_files or another source of records, or one_of.prompt_key=None."
        )
    return source
