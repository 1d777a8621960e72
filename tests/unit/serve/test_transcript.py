"""The answer to one sequence as it grows: text, log-probabilities, and where each token stands."""

import fake_engine
import pytest

from palmscale.infer.request import Output, Token
from palmscale.serve.body import CompletionBody
from palmscale.serve.limits import Limits
from palmscale.serve.protocol import sequences
from palmscale.serve.transcript import Transcript

SERVED = fake_engine.served()
ENCODE = SERVED.vocabulary.encode


def pieces(text, *, finished="length", end=(), **fields):
    """The pieces of an answer whose tokens are those of `text`, one by one, and then `end`."""
    (asked,) = sequences(CompletionBody(**{"prompt": "é"} | fields), SERVED, Limits())
    transcript = Transcript(SERVED, asked)
    ids = [*ENCODE(text).tolist(), *end]
    scored = [_token(token_id) for token_id in asked.ids[1:]] if asked.request.score_from else None
    found = []
    for number, token_id in enumerate(ids):
        last = number == len(ids) - 1
        output = Output(
            request_id=0,
            tokens=[_token(token_id)],
            prompt=scored if number == 0 else None,
            finished=finished if last else None,
        )
        found.append(transcript.add(output))
        if found[-1].finish_reason is not None:
            break
    return found


def _token(token_id):
    return Token(id=int(token_id), log_probability=-0.5, top=[(100, -0.25)])


def test_no_character_is_broken():
    assert [piece.text for piece in pieces("aé→z")] == ["a", "", "é", "", "", "→", "z"]


def test_a_stop_string_is_held_back_and_never_returned():
    found = pieces("ab<en<end>c", stop=["<end>"])
    assert "".join(piece.text for piece in found) == "ab<en"
    assert found[-1].finish_reason == "stop" and len(found) == 10
    assert all("<end" not in piece.text for piece in found)


def test_what_began_like_a_stop_string_comes_at_the_end():
    found = pieces("ab<en", stop=["<end>"])
    assert found[-1].text == "<en" and found[-1].finish_reason == "length"


def test_an_echo_comes_first():
    assert [piece.text for piece in pieces("ab", echo=True)] == ["éa", "b"]


@pytest.mark.parametrize("echo", [False, True])
def test_offsets_point_into_the_text(echo):
    found = pieces("aé→z", echo=echo, logprobs=1)
    text = "".join(piece.text for piece in found)
    entries = [entry for piece in found for entry in piece.entries]
    assert len(entries) == 7 + 2 * echo
    for entry in entries:
        if len(entry.text) == 1:
            assert text[entry.offset] == entry.text
        else:
            assert entry.text.startswith("<0x") and text[entry.offset] in "é→"


def test_a_byte_that_is_no_character_has_its_own_spelling():
    entries = [entry for piece in pieces("é", logprobs=1) for entry in piece.entries]
    assert [entry.text for entry in entries] == ["<0xC3>", "<0xA9>"]
    assert entries[0].top == {"a": -0.25, "<0xC3>": -0.5}


def test_tokens_of_a_stop_string_are_not_told():
    found = pieces("ab</x>", stop=["</x>"], logprobs=0)
    assert [entry.text for piece in found for entry in piece.entries] == ["a", "b"]


def test_the_end_of_the_document_has_no_text_but_a_log_probability():
    found = pieces("a", finished="stop", end=[SERVED.vocabulary.eod_id], logprobs=0)
    assert "".join(piece.text for piece in found) == "a"
    assert [entry.text for piece in found for entry in piece.entries] == ["a", "</s>"]


def test_the_first_token_of_a_prompt_follows_the_bos_that_was_added():
    told = pieces("a", prompt="bc", echo=True, logprobs=1)[0].entries
    assert [(entry.text, entry.log_probability) for entry in told] == [
        ("b", -0.5), ("c", -0.5), ("a", -0.5)
    ]  # fmt: skip
    own_bos = pieces("a", prompt=[0, *ENCODE("bc").tolist()], echo=True, logprobs=1)[0].entries
    assert [(entry.text, entry.log_probability, entry.top is None) for entry in own_bos] == [
        ("<s>", None, True), ("b", -0.5, False), ("c", -0.5, False), ("a", -0.5, False)
    ]  # fmt: skip
