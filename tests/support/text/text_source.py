"""A source of given texts that needs no files, and notes which shards were read."""

import dataclasses

from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.source import Document, SourceShard, TextSource


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenTexts(TextSource):
    """Shards by name: texts, documents or bad documents. `read` collects what was opened."""

    texts: dict
    splits: dict = dataclasses.field(default_factory=dict)
    read: list = dataclasses.field(default_factory=list)

    def shards(self):
        return [
            SourceShard(
                name=name,
                bytes=sum(len(text) for text in texts if isinstance(text, str)),
                split=self.splits.get(name),
                has_many_documents=True,
            )
            for name, texts in sorted(self.texts.items())
        ]

    def documents(self, shard):
        self.read.append(shard.name)
        for text in self.texts[shard.name]:
            yield Document(text) if isinstance(text, str) else text


def corpus(texts, *, splits=None, **options):
    return Corpus(source=GivenTexts(texts=texts, splits=splits or {}), **options)
