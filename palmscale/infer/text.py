"""Between text and token ids: prompts in, text out, and no character broken in between."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MOST_HELD = 3  # bytes of a character that may still be completed; each decodes to a replacement
_CONTEXT = 16  # tokens before the new ones that are decoded with them


def encode_prompt(vocabulary: Vocabulary, prompt: str) -> np.ndarray:
    """Returns the prompt's ids, int32, after the bos id, as rows begin in training.

    Raises:
        UserError: the prompt is not text, as bytes that are not UTF-8 would be.
    """
    try:
        ids = vocabulary.encode(prompt)
    except UnicodeEncodeError as error:
        wrong = prompt[error.start]
        raise UserError(
            f"the text holds {wrong!r} at character {error.start}, which is not UTF-8; remove it."
        ) from None
    return np.concatenate([[vocabulary.bos_id], ids]).astype(np.int32)


def before_end(ids: list[int], vocabulary: Vocabulary) -> list[int]:
    """Returns the ids before the first end of document."""
    return ids[: ids.index(vocabulary.eod_id)] if vocabulary.eod_id in ids else ids


def stream_text(
    token_ids: Iterable[int],
    vocabulary: Vocabulary,
    *,
    prompt: str = "",
    prompt_ids: Sequence[int] | np.ndarray = (),
) -> Iterator[str]:
    """Yields the text after a prompt as it grows; half a character waits for the rest.

    New tokens are decoded together with the prompt's last ones: SentencePiece would drop the space
    that begins the first word of a text.

    Args:
        token_ids: that follow the prompt.
        vocabulary: of all ids.
        prompt: the text that the result continues.
        prompt_ids: of the prompt.
    """
    ids = [int(token_id) for token_id in prompt_ids[-_CONTEXT:]]
    text = vocabulary.decode(ids)
    shown = len(text)
    # Of a prompt that ends in a space some vocabularies keep none: the next word brings its own.
    space = prompt[len(prompt.rstrip(" ")) :]
    lost = space if not text.endswith(space) else ""
    for token_id in token_ids:
        ids.append(token_id)
        text = vocabulary.decode(ids)
        held = len(text) - len(text.rstrip(_REPLACEMENT))
        end = len(text) - min(held, _MOST_HELD)
        if end > shown:
            yield text[shown:end].removeprefix(lost)
            shown, lost = end, ""
        if not held and len(ids) > 4 * _CONTEXT and (text := vocabulary.decode(ids[-_CONTEXT:])):
            ids, shown = ids[-_CONTEXT:], len(text)
    if rest := text[shown:]:
        yield rest
