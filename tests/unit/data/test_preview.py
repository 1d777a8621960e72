import numpy as np

from palmscale.data.preview import row_text, rows_of, token_statistics, token_text
from palmscale.data.vocabulary import ByteVocabulary

BYTES = ByteVocabulary()


def test_text_shows_ends_of_documents_and_does_not_command_the_terminal():
    ids = [*BYTES.encode("a\tb\n\x1b[31m\r"), BYTES.eod_id, *BYTES.encode("é"), BYTES.eod_id]
    (row,) = rows_of({"target": np.array([ids])})
    assert row_text(row, BYTES) == "a\tb\n\\x1b[31m\\r\n[eod]\né\n[eod]\n"


def test_a_packed_row_shows_where_completions_begin_and_no_padding():
    pairs = [("2+2=", "4"), ("", "plain"), ("q", "a")]
    ids = [[*BYTES.encode(prompt + text), BYTES.eod_id] for prompt, text in pairs]
    weights = [[0] * len(p) + [1] * (len(t) + 1) for p, t in pairs]
    segments = [[n] * len(each) for n, each in enumerate(ids, 1)]
    fields = {"target": ids, "weight": weights, "segment": segments}
    row = {name: np.array([[*sum(parts, []), 0, 0]]) for name, parts in fields.items()}
    (shown,) = rows_of(row)
    assert len(shown.ids) == sum(map(len, ids))
    text = "2+2=\n[completion]\n4\n[eod]\nplain\n[eod]\nq\n[completion]\na\n[eod]\n"
    assert row_text(shown, BYTES) == text


def test_statistics_count_tokens_documents_and_the_most_frequent():
    ids = [*BYTES.encode("aaab"), BYTES.eod_id, *BYTES.encode("ab"), BYTES.eod_id]
    counted = token_statistics(np.array(ids).reshape(2, 4), BYTES)
    assert (counted.rows, counted.tokens, counted.distinct, counted.documents) == (2, 8, 3, 2)
    texts = [(token_text(token_id, BYTES), share) for token_id, share in counted.frequent]
    assert texts == [("'a'", 0.5), ("[eod]", 0.25), ("'b'", 0.25)]
