import copy

import pytest

from palmscale.data.cache_manifest import flaw_of

SPLIT = {
    "rows": 2,
    "documents": 1,
    "tokens": 8,
    "utf8_bytes": 8,
    "groups": {"": {"documents": 1, "tokens": 8, "utf8_bytes": 8}},
    "length_histogram": [0, 1],
    "rows_sha256": "",
    "shards": [{"name": "a", "rows": 2, "bytes": 16, "sha256": ""}],
}
MANIFEST = {
    "format": 2,
    "digest": "",
    "sources": [{"name": "a.txt", "bytes": 8, "stamp": "", "digest": ""}],
    "bad_documents": {"count": 0, "first": []},
    "vocabulary": {"kind": "bytes", "size": 259, "digest": ""},
    "sequence_length": 4,
    "packing": "concatenate",
    "fields": [["target", "<u2"]],
    "splits": {"train": SPLIT, "validation": SPLIT | {"rows": 0, "shards": []}},
}


def test_a_manifest_that_can_be_one_has_no_flaw():
    assert flaw_of(MANIFEST) is None


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("sequence_length",), 0, "sequence_length is 0"),
        (("sequence_length",), 2**40, "'a' is too small for its rows"),
        (("fields",), [["target", "O"]], "field 'target' has the type 'O'"),
        (("fields",), [["target", "(9999999999,)f8"]], "field 'target' has the type"),
        (("fields",), [["weight", "|u1"]], "a field or split is missing"),
        (("splits",), {"train": SPLIT}, "a field or split is missing"),
        (("splits", "train", "rows"), 3, "the files of 'train' have other rows"),
        (("splits", "train", "shards", 0, "bytes"), 15, "'a' is too small for its rows"),
        (("splits", "train", "shards", 0, "name"), None, "shards.0.name is None"),
        (("splits", "train", "groups"), [], "groups is"),
        (("sources", 0, "bytes"), "8", "sources.0.bytes is '8'"),
    ],
    ids=str,
)
def test_a_flaw_is_told(place, value, told):
    manifest = copy.deepcopy(MANIFEST)
    inner = manifest
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    assert told in flaw_of(manifest)
