"""Perplexity and bits per byte of given text files, each a document of its own."""

import dataclasses
import math

import numpy as np

from palmscale.data.sources.source import BadDocument, SourceShard
from palmscale.data.sources.text_files import TextFiles
from palmscale.errors import UserError
from palmscale.evals.candidate import Candidate
from palmscale.infer.text import encode_prompt
from palmscale.run.evaluate import perplexity


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEvaluation:
    """The evaluation of UTF-8 files, plain or compressed.

    A file that is longer than the context is scored in windows, as lm-eval does; see
    `palmscale.infer.score.windows`.

    Attributes:
        files: a glob pattern, or several; paths or URLs.
    """

    files: str | tuple[str, ...]

    def __call__(self, candidate: Candidate) -> dict[str, float]:
        """Returns `eval/text/loss` (nats a token), `perplexity` and `bits_per_byte`.

        They are those of all files together and, where there are several, `eval/text/loss/<file>`
        of each.

        Raises:
            UserError: a file cannot be read, or there is no text in any.
        """
        source = TextFiles(files=self.files)
        texts = {shard.name: _text(source, shard) for shard in source.shards()}
        texts = {name: text for name, text in texts.items() if text}
        if not texts:
            raise UserError(f"there is no text in {self.files}; name files that are not empty.")
        ids = [encode_prompt(candidate.vocabulary, text)[1:].tolist() for text in texts.values()]
        nats = np.negative(candidate.rolling_likelihoods(ids))
        tokens = np.array([len(one) for one in ids])
        sizes = np.array([len(text.encode()) for text in texts.values()])
        found = _metrics("", nats.sum(), tokens.sum(), sizes.sum())
        if len(texts) > 1:
            for name, *of_file in zip(texts, nats, tokens, sizes, strict=True):
                found |= _metrics(f"/{name}", *of_file)
        return found


def _text(source: TextFiles, shard: SourceShard) -> str:
    (document,) = source.documents(shard)
    if isinstance(document, BadDocument):
        raise UserError(f"{document.location}: {document.reason}")
    return document.text


def _metrics(suffix: str, nats: float, tokens: int, text_bytes: int) -> dict[str, float]:
    loss = float(nats / tokens)
    return {
        f"eval/text/loss{suffix}": loss,
        f"eval/text/perplexity{suffix}": perplexity(loss),
        f"eval/text/bits_per_byte{suffix}": float(nats / math.log(2) / text_bytes),
    }
