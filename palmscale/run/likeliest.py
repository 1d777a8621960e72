"""Of the models that a file may hold, the one under which given text is most likely."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp

from palmscale.data.sources.text_files import TextFiles
from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError
from palmscale.infer.score import score
from palmscale.infer.text import encode_prompt
from palmscale.interop.layouts import Incoming
from palmscale.observe import log
from palmscale.trees import nested

_MOST_TOKENS = 8192
_TEXT_TOKENS = 1024


def likeliest(
    candidates: Sequence[Incoming], vocabulary: Vocabulary, text_files: tuple[str, ...]
) -> Incoming:
    """Returns the candidate with the least loss on the beginnings of the texts.

    Each is loaded whole.

    Raises:
        UserError: there are several and no text.
    """
    if len(candidates) == 1:
        return candidates[0]
    told = "; ".join(_described(candidate) for candidate in candidates)
    if not text_files:
        raise UserError(
            f"the file may hold several models ({told}); choose one by these options, or give text"
            " that decides: text_files=PATTERN."
        )
    texts = list(_texts(vocabulary, text_files))
    losses = [_loss(candidate, vocabulary, texts) for candidate in candidates]
    for candidate, loss in zip(candidates, losses, strict=True):
        log.say(f"{_described(candidate)}: {loss:.4f} nats per token")
    return candidates[losses.index(min(losses))]


def _texts(vocabulary: Vocabulary, text_files: tuple[str, ...]) -> Iterator[str]:
    source, tokens = TextFiles(files=text_files), 0
    for shard in source.shards():
        for document in source.documents(shard):
            text = getattr(document, "text", "")[: 8 * _TEXT_TOKENS]
            if text and tokens < _MOST_TOKENS:
                tokens += min(len(vocabulary.encode(text)), _TEXT_TOKENS)
                yield text
    if not tokens:
        raise UserError(f"text_files={', '.join(text_files)} has no text; name other files.")


def _loss(candidate: Incoming, vocabulary: Vocabulary, texts: Sequence[str]) -> float:
    params = nested({name: jnp.asarray(one.read()) for name, one in candidate.params.items()})
    nats = tokens = 0.0
    for text in texts:
        row = encode_prompt(vocabulary, text)[: 1 + _TEXT_TOKENS]
        scored = score(model=candidate.model, params=params, row=row, text_bytes=len(text.encode()))
        nats -= scored.log_probability
        tokens += len(scored.token_ids)
    return nats / tokens if math.isfinite(nats) else math.inf


def _described(candidate: Incoming) -> str:
    given = dataclasses.asdict(candidate.choice).items()
    return " ".join(f"{name}={value}" for name, value in given if value is not None)
