"""Small caches of random documents, for the tests of building and of reading them."""

import numpy as np
import pytest

from palmscale.data import cache as caching
from palmscale.data.cache import build_cache
from palmscale.data.vocab import ByteVocabulary


class Builder:
    """Builds caches of the same random documents, with one thing changed at a time."""

    sequence_length = 16

    def documents(self, count=40, seed=0):
        random = np.random.default_rng(seed)
        for _ in range(count):
            ids = random.integers(3, 259, random.integers(1, 60)).astype(np.int32)
            yield ids, len(ids)

    def __call__(self, directory, **options):
        splits = {"train": self.documents(), "validation": self.documents(5, seed=1)}
        defaults = {"documents": splits, "vocabulary": ByteVocabulary(), "seed": 0}
        defaults |= {"sequence_length": self.sequence_length}
        return build_cache(directory=directory, **(defaults | options))


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
def small_shards(monkeypatch):
    monkeypatch.setattr(caching, "_SHARD_BYTES", 20 * Builder.sequence_length * 2)  # 20 rows each
