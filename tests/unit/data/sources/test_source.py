"""Documents become examples: what a source of text yields."""

import dataclasses

from palmscale.data.sources.source import (
    BadDocument,
    Document,
    SourceShard,
    TextSource,
    text_bytes,
)
from palmscale.data.vocabulary import ByteVocabulary

BYTES = ByteVocabulary()


@dataclasses.dataclass(frozen=True)
class Given(TextSource):
    found: tuple

    def documents(self, shard):
        yield from self.found


def examples(*found):
    return list(Given(found).examples(SourceShard(name="a"), BYTES))


def test_a_document_is_its_ids_and_its_bytes():
    (example,) = examples(Document("aé", "group"))
    assert BYTES.decode(example.ids) == "aé"
    assert (example.text_bytes, example.group, example.prompt_tokens) == (3, "group", 0)


def test_a_prompt_precedes_the_text_and_is_counted():
    (example,) = examples(Document("bc", prompt="a"))
    assert BYTES.decode(example.ids) == "abc"
    assert (example.text_bytes, example.prompt_tokens) == (3, 1)
    assert text_bytes(Document("bc", prompt="é")) == 4


def test_an_empty_document_counts_as_a_number_and_a_bad_one_is_passed_on():
    bad = BadDocument("a:1", "why")
    assert examples(Document(""), bad) == [None, bad]


def test_text_has_no_vocabulary_of_its_own():
    assert Given(()).vocabulary(BYTES) is BYTES
