"""Between text and token ids: prompts in, text out, and no character broken in between."""

import numpy as np

from palmscale.data.vocabulary import ByteVocabulary
from palmscale.infer.text import before_end, encode_prompt, stream_text

BYTES = ByteVocabulary()


def test_a_character_of_several_bytes_is_yielded_whole():
    text = "aé→𝄞z"
    assert list(stream_text(BYTES.encode(text).tolist(), BYTES)) == list(text)


def test_bytes_that_are_no_character_are_replaced_once_the_next_one_comes():
    broken, whole = BYTES.encode("→")[:1].tolist(), BYTES.encode("b").tolist()
    assert list(stream_text(broken + whole + broken, BYTES)) == ["\ufffdb", "\ufffd"]


def test_the_text_ends_before_the_end_of_the_document():
    assert before_end([5, 6, BYTES.eod_id, 7], BYTES) == [5, 6]
    assert before_end([5, 6], BYTES) == [5, 6]


def test_a_prompt_begins_with_bos_as_rows_do():
    ids = encode_prompt(BYTES, "hé")
    assert ids.dtype == np.int32 and ids[0] == BYTES.bos_id
    assert BYTES.decode(ids[1:]) == "hé"
    assert encode_prompt(BYTES, "").tolist() == [BYTES.bos_id]
