import pytest

from palmscale.data.corpora import one_of
from palmscale.data.files import SourceDirectories, StandardLibrary, TextFiles
from palmscale.data.hub import HuggingFace
from palmscale.data.records import Jsonl, Parquet, Pile
from palmscale.data.tasks import SeqioTask, Tfds
from palmscale.errors import UserError

CHOICES = {
    "text_files": TextFiles(files="x"),
    "jsonl_files": Jsonl(files="x"),
    "pile_files": Pile(files="x"),
    "parquet_files": Parquet(files="x"),
    "hf_dataset": HuggingFace(dataset="x"),
    "tfds_dataset": Tfds(dataset="x"),
    "source_directories": SourceDirectories(directories="x"),
    "mixture_or_task": SeqioTask(mixture_or_task="x"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_one_line_names_a_source(name):
    source = one_of(**{name: "x"})
    assert source == CHOICES[name] and source.setting == name.upper()


def test_none_is_the_standard_library():
    assert one_of() == one_of(text_files=None) == StandardLibrary()


def test_two_at_once_are_refused_by_macro_name():
    with pytest.raises(
        UserError, match="TEXT_FILES and MIXTURE_OR_TASK are both given.*JSONL_FILES, PILE_FILES"
    ):
        one_of(text_files="a", mixture_or_task="b")
