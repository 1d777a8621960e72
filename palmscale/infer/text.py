"""Between text and token ids: prompts in, text out, and no character broken in between."""

from collections.abc import Iterable, Iterator

import numpy as np

from palmscale.data.vocabulary import Vocabulary


def encode_prompt(vocabulary: Vocabulary, prompt: str) -> np.ndarray:
    """Returns the prompt's ids, int32, after the bos id, as rows begin in training."""
    return np.concatenate([[vocabulary.bos_id], vocabulary.encode(prompt)]).astype(np.int32)


def before_end(ids: list[int], vocabulary: Vocabulary) -> list[int]:
    """Returns the ids before the first end of document."""
    return ids[: ids.index(vocabulary.eod_id)] if vocabulary.eod_id in ids else ids


def stream_text(token_ids: Iterable[int], vocabulary: Vocabulary) -> Iterator[str]:
    """Yields the text as it grows, a piece at a time; half a character waits for the rest."""
    ids: list[int] = []
    shown = 0
    for token_id in token_ids:
        ids.append(token_id)
        text = vocabulary.decode(ids)
        if not text.endswith("\N{REPLACEMENT CHARACTER}") and len(text) > shown:
            yield text[shown:]
            shown = len(text)
    if rest := vocabulary.decode(ids)[shown:]:
        yield rest
