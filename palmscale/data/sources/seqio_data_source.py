"""A corpus of text as a SeqIO DataSource, for a user's own Tasks."""

from collections.abc import Iterator
from typing import Any

from palmscale.data.sources.corpus import FAIL, Corpus
from palmscale.data.sources.seqio_tasks import import_seqio
from palmscale.data.sources.source import SPLITS, TRAIN, BadDocument
from palmscale.errors import UserError


def data_source(corpus: Corpus) -> Any:
    """Returns the SeqIO DataSource of a corpus of text.

    Its examples have the strings `targets`, and `inputs` if documents have prompts; they are meant
    for SeqIO's `tokenize`. Reading a bad document raises UserError unless the corpus skips them.

    Raises:
        UserError: SeqIO is not installed, or the source cannot be read.
    """
    seqio = import_seqio()
    import tensorflow as tf

    shards = {shard.name: shard for shard in corpus.source.shards()}
    split_of = corpus.split_of(shards.values())
    signature = {"targets": tf.TensorSpec((), tf.string)}
    if getattr(corpus.source, "prompt_key", None):
        signature["inputs"] = tf.TensorSpec((), tf.string)

    def texts(split: str, names: list[str]) -> Iterator[dict[str, str]]:
        for name in names:
            for number, document in enumerate(corpus.source.documents(shards[name])):
                if isinstance(document, BadDocument):
                    if corpus.on_bad_document == FAIL:
                        raise UserError(f"{document.location}: {document.reason}")
                elif document.text and split_of(shards[name], number) == split:
                    values = {"targets": document.text, "inputs": document.prompt}
                    yield {feature: values[feature] for feature in signature}

    class CorpusSource(seqio.DataSource):
        def __init__(self):
            super().__init__(splits=SPLITS)

        @property
        def supports_arbitrary_sharding(self):
            return False

        def list_shards(self, split):
            return list(shards)

        def get_dataset(self, split=TRAIN, shuffle=True, seed=None, shard_info=None, **more):
            del shuffle, seed, more  # the cache shuffles documents
            info = shard_info or seqio.ShardInfo(index=0, num_shards=1)
            names = list(shards)[info.index :: info.num_shards]
            return tf.data.Dataset.from_generator(
                lambda: texts(split, names), output_signature=signature
            )

    return CorpusSource()
