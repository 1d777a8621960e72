"""The source that a gin file names by a single line."""

from palmscale.data.files import SourceDirectories, StandardLibrary, TextFiles
from palmscale.data.hub import HuggingFace
from palmscale.data.records import Jsonl, Parquet, Pile
from palmscale.data.sources import Source
from palmscale.data.tasks import SeqioTask, Tfds
from palmscale.errors import UserError

Files = str | tuple[str, ...]


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
) -> Source:
    """Returns the source that is given; the standard library's own where none is.

    Raises UserError where several are.
    """
    choices = {
        "text_files": (text_files, lambda value: TextFiles(files=value)),
        "jsonl_files": (jsonl_files, lambda value: Jsonl(files=value)),
        "pile_files": (pile_files, lambda value: Pile(files=value)),
        "parquet_files": (parquet_files, lambda value: Parquet(files=value)),
        "hf_dataset": (hf_dataset, lambda value: HuggingFace(dataset=value)),
        "tfds_dataset": (tfds_dataset, lambda value: Tfds(dataset=value)),
        "source_directories": (
            source_directories,
            lambda value: SourceDirectories(directories=value),
        ),
        "mixture_or_task": (mixture_or_task, lambda value: SeqioTask(mixture_or_task=value)),
    }
    given = [(name, value, make) for name, (value, make) in choices.items() if value]
    if len(given) > 1:
        raise UserError(
            f"{' and '.join(name.upper() for name, *_ in given)} are both given - a run trains on"
            f" one corpus - keep one of {', '.join(map(str.upper, choices))}"
        )
    for _, value, make in given:
        return make(value)
    return StandardLibrary()
