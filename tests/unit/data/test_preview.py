import numpy as np

from palmscale.data.preview import row_text, token_statistics, token_text
from palmscale.data.vocabulary import ByteVocabulary

BYTES = ByteVocabulary()


def test_text_shows_ends_of_documents_and_does_not_command_the_terminal():
    ids = [*BYTES.encode("a\tb\n\x1b[31m\r"), BYTES.eod_id, *BYTES.encode("é"), BYTES.eod_id]
    shown = row_text(np.array(ids), BYTES)
    assert shown == "a\tb\n\\x1b[31m\\r\n[eod]\né\n[eod]\n"


def test_statistics_count_tokens_documents_and_the_most_frequent():
    ids = [*BYTES.encode("aaab"), BYTES.eod_id, *BYTES.encode("ab"), BYTES.eod_id]
    counted = token_statistics(np.array(ids).reshape(2, 4), BYTES)
    assert (counted.rows, counted.tokens, counted.distinct, counted.documents) == (2, 8, 3, 2)
    texts = [(token_text(token_id, BYTES), share) for token_id, share in counted.frequent]
    assert texts == [("'a'", 0.5), ("[eod]", 0.25), ("'b'", 0.25)]
