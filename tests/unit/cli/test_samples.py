import contextlib

import numpy as np
import pytest

from palmscale.cli import samples
from palmscale.data.vocab import ByteVocabulary
from palmscale.errors import UserError

BYTES = ByteVocabulary()


class Written:
    """Standard output that keeps each piece apart."""

    def __init__(self):
        self.pieces = []

    def write(self, text):
        self.pieces.append(text)

    def flush(self):
        pass


def stream(ids):
    """The pieces of text that the token ids become on standard output."""
    with contextlib.redirect_stdout(Written()) as stdout:
        tokens = samples._before_end((np.array([token_id]) for token_id in ids), BYTES)
        samples._stream_text("> ", tokens, BYTES)
    return [piece for piece in stdout.pieces if piece]


def test_a_character_of_several_bytes_is_written_whole():
    text = "aé→𝄞z"
    assert stream(BYTES.encode(text).tolist()) == ["> ", *text, "\n"]


def test_bytes_that_are_no_character_are_replaced_once_the_next_one_comes():
    broken, whole = BYTES.encode("→")[:1].tolist(), BYTES.encode("b").tolist()
    assert stream(broken + whole + broken) == ["> ", "\ufffdb", "\ufffd\n"]


def test_the_end_of_the_document_ends_the_text_and_nothing_is_asked_for_after_it():
    def ids():
        yield from [*BYTES.encode("ab"), BYTES.eod_id]
        raise AssertionError("asked for more")

    assert "".join(stream(ids())) == "> ab\n"
    assert samples.until_end([5, 6, BYTES.eod_id, 7], BYTES) == [5, 6]
    assert samples.until_end([5, 6], BYTES) == [5, 6]


def test_a_prompt_begins_with_bos_as_rows_do():
    ids = samples.encoded(BYTES, "hé")
    assert ids.dtype == np.int32 and ids[0] == BYTES.bos_id
    assert BYTES.decode(ids[1:]) == "hé"
    assert samples.encoded(BYTES, "").tolist() == [BYTES.bos_id]


def test_a_prompt_file_is_read_as_it_is(tmp_path):
    (tmp_path / "prompt").write_bytes("a\r\nü ".encode())
    assert samples._read(str(tmp_path / "prompt")) == "a\r\nü "


def test_a_prompt_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="--prompt_file=.*no: No such file"):
        samples._read(str(tmp_path / "no"))
    (tmp_path / "latin").write_bytes(b"abc\xff")
    with pytest.raises(UserError, match="latin is not UTF-8 at byte 3"):
        samples._read(str(tmp_path / "latin"))
