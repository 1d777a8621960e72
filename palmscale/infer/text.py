"""Between text and token ids: prompts in, text out, and no character broken in between."""

from collections.abc import Iterable, Sequence

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


def encode_pair(
    vocabulary: Vocabulary, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Returns the ids of a context, after the bos id, and of the text that continues it.

    Both are encoded as one text and then split. Spaces at the end of the context belong to the
    continuation, as in lm-eval.

    Raises:
        UserError: one is not text.
    """
    stripped = context.rstrip()
    whole = encode_prompt(vocabulary, context + continuation).tolist()
    length = len(encode_prompt(vocabulary, stripped))
    return whole[:length], whole[length:]


class TextStream:
    """The text after a prompt as its tokens come, up to the first stop string.

    Text is given out once it is final: half a character waits for the rest, and so does what may
    begin a stop string. The stop string that is complete first ends the text, of several complete
    at once the longest; it is not part of the text, wherever tokens begin and end.

    Attributes:
        stopped: whether a stop string was found; nothing follows.
        tokens_used: tokens added, up to the one that completed the stop string.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        prompt: str = "",
        prompt_ids: Sequence[int] | np.ndarray = (),
        stop: Sequence[str] = (),
    ) -> None:
        """Begins after a prompt.

        New tokens are decoded together with the prompt's last ones: SentencePiece would drop the
        space that begins the first word of a text.

        Args:
            vocabulary: of all ids.
            prompt: the text that the result continues.
            prompt_ids: of the prompt.
            stop: strings that end the text.

        Raises:
            UserError: a stop string is empty.
        """
        if "" in stop:
            raise UserError("a stop string is empty; remove it, or give it a character.")
        self.stopped, self.tokens_used = False, 0
        self._vocabulary, self._stop = vocabulary, tuple(stop)
        self._ids = [int(token_id) for token_id in prompt_ids[-_CONTEXT:]]
        self._text = vocabulary.decode(self._ids)
        self._decoded = _whole_characters(self._text)  # of it, that are final
        # The prompt's own, if the new text begins with it: of a character whose rest never comes,
        # or a space, which some vocabularies keep only before the next word.
        space = prompt[len(prompt.rstrip(" ")) :]
        is_kept = self._text.endswith(space)
        self._not_new = self._text[self._decoded :] or ("" if is_kept else space)
        self._held = ""  # final, but it may begin a stop string

    def add(self, token_ids: Iterable[int]) -> str:
        """Returns the text that is final with these tokens, often none."""
        text = ""
        for token_id in token_ids:
            if self.stopped:
                break
            self.tokens_used += 1
            text += self._before_stop(self._decode(int(token_id)))
        return text

    def finish(self) -> str:
        """Returns the rest of the text; no token follows."""
        rest = self._text[self._decoded :].removeprefix(self._not_new)
        text = self._before_stop(rest) + self._held
        self._decoded, self._held = len(self._text), ""
        return text

    def _decode(self, token_id: int) -> str:
        """Returns the characters that are complete with one more token."""
        self._ids.append(token_id)
        text = self._vocabulary.decode(self._ids)
        start, end = self._decoded, _whole_characters(text)
        new = ""
        if end > start:
            new = text[start:end].removeprefix(self._not_new)
            self._decoded, self._not_new = end, ""
        is_whole, is_long = end == len(text), len(self._ids) > 4 * _CONTEXT
        if is_whole and is_long and (short := self._vocabulary.decode(self._ids[-_CONTEXT:])):
            self._ids, text, self._decoded = self._ids[-_CONTEXT:], short, len(short)
        self._text = text
        return new

    def _before_stop(self, new: str) -> str:
        """Returns what may be given out of the text held back and the new one."""
        text = self._held + new
        # Ends and starts of each stop string's first place: the least is the one to stop at.
        places = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stop]
        found = [(end, start) for end, start in places if start >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        starts = range(max(0, len(text) + 1 - max(map(len, self._stop), default=0)), len(text))
        held_from = next(
            (start for start in starts if any(s.startswith(text[start:]) for s in self._stop)),
            len(text),
        )
        self._held = text[held_from:]
        return text[:held_from]


def _whole_characters(text: str) -> int:
    """Returns the length of a text without what its next bytes may complete."""
    return len(text) - min(len(text) - len(text.rstrip(_REPLACEMENT)), _MOST_HELD)
