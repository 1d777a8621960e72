"""A source of random documents that needs no files, for the tests of building and reading rows."""

import dataclasses
import hashlib

import numpy as np

from palmscale.data.permutation import mix_bits
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.source import TRAIN, VALIDATION, BadDocument, Example, SourceShard


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemorySource:
    """Shards of `documents` documents each, 1 to `longest` - 1 ids below `below`.

    `bad` are the places (shard, number) of bad documents; `prompts` gives each document a prompt of
    a third of its tokens. The last shard is the split "validation".
    """

    field = "MemorySource"
    shard_count: int = 5
    documents: int = 10
    longest: int = 60
    below: int = 259
    seed: int = 0
    bad: tuple[tuple[int, int], ...] = ()
    prompts: bool = False
    stamp: str = ""

    def shards(self):
        """Two groups of documents, a and b."""
        last = self.shard_count - 1
        return [
            SourceShard(
                name=f"shard{i}",
                split=VALIDATION if i == last else TRAIN,
                bytes=1 << 24,  # so that a unit of work has two
                stamp=self.stamp,
            )
            for i in range(self.shard_count)
        ]

    def vocabulary(self, given):
        return given

    def examples(self, shard, vocabulary):
        del vocabulary
        random = np.random.default_rng([self.seed, int(shard.name.removeprefix("shard"))])
        for number in range(self.documents):
            ids = random.integers(3, self.below, random.integers(1, self.longest)).astype(np.int32)
            place = int(shard.name.removeprefix("shard")), number
            if place in self.bad:
                yield BadDocument(f"{shard.name}:{number}", "it is bad")
            elif number % 7 == 6:
                yield None
            else:
                prompt = len(ids) // 3 if self.prompts else 0
                yield Example(ids, len(ids), "ab"[number % 2], prompt, prompt)


def expected_documents(source, split, seed):
    """(ids, prompt tokens) of each document in the order of their keys, worked out in full."""
    keyed = []
    for shard in source.shards():
        if shard.split != split:
            continue
        base = hashlib.sha256(f"documents:{seed}:{shard.name}".encode()).digest()[:8]
        for number, example in enumerate(source.examples(shard, None)):
            if isinstance(example, Example):
                place = int.from_bytes(base, "little") + number * 0x9E3779B97F4A7C15
                key = mix_bits(np.array([place % 2**64], np.uint64)).item()
                keyed.append((key, shard.name, number, example))
    return [(e.ids.tolist(), e.prompt_tokens) for *_, e in sorted(keyed, key=lambda k: k[:3])]


def corpus(**options):
    return Corpus(source=MemorySource(**options))
