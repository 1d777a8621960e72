"""Small caches of random documents, for the tests of building and of reading them."""

import memory_source
import pytest

from palmscale.data.build import builder as building
from palmscale.data.build import row_files, spill
from palmscale.data.vocabulary import ByteVocabulary


class Builder:
    """Builds caches of the same random documents, with one thing changed at a time."""

    sequence_length = 16

    def __call__(self, directory, **options):
        defaults = {"corpus": memory_source.corpus(), "vocabulary": ByteVocabulary(), "seed": 0}
        defaults |= {"sequence_length": self.sequence_length}
        return building.build_cache(directory=directory, **(defaults | options))


@pytest.fixture
def build():
    return Builder()


@pytest.fixture
def flip():
    def flip(path, place):
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(bytes(content))

    return flip


@pytest.fixture
def small_files(monkeypatch):
    """Twenty rows each, from runs of some documents, in this process."""
    monkeypatch.setattr(row_files, "_FILE_BYTES", 20 * Builder.sequence_length * 2)
    monkeypatch.setattr(spill, "_RUN_TOKENS", 100)
