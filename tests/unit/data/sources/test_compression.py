import bz2
import gzip
import io
import lzma

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from palmscale.data.sources import compression

COMPRESS = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
TEXT = "some text, naïve\n".encode() * 5000
SKIPPED = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"


def read(content, name="a.txt"):
    return b"".join(compression.chunks(io.BytesIO(content), name))


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("name", ["a", "a.txt", "A.JSONL.GZ", "a.gz", "a.zstd", "a.gzip", "a.bz2"])
def test_the_content_decides_the_format_whatever_the_name_is(kind, name):
    compress = COMPRESS[kind]
    assert read(compress(TEXT), name) == TEXT
    assert read(compress(b"") + compress(TEXT) + compress(b"x"), name) == TEXT + b"x"


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_not_whole(kind, part):
    content = COMPRESS[kind](TEXT)
    with pytest.raises(compression.Broken, match="truncated"):
        read(content[: max(11, int(part * len(content)))])


@pytest.mark.parametrize("suffix", ["gz", "GZ", "gzip", "zst", "zstd", "bz2", "xz"])
def test_an_empty_file_with_the_name_of_a_compressed_one_is_cut_off(suffix):
    with pytest.raises(compression.Broken, match="truncated: the file is empty"):
        read(b"", f"a.jsonl.{suffix}")
    assert read(b"", "a.jsonl") == b""


def test_a_name_that_does_not_fit_the_content_is_said():
    with pytest.raises(compression.Broken, match="the name says gzip.*rename the file"):
        read(b"plain text, longer than a head", "a.txt.gz")


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"PK\x03\x04....", "a.zip", "format zip; convert it to gzip, zstd, bzip2 or xz"),
        (b"\x04\x22\x4d\x18...", "a.lz4", "format lz4"),
        (gzip.compress(b"x", mtime=0), "a.tar.gz", "tar archive"),
        (gzip.compress(b"x", mtime=0), "a.tgz", "tar archive"),
        (b"", "a.tar", "tar archive"),
    ],
)
def test_what_cannot_be_read_is_said(content, name, reason):
    with pytest.raises(compression.Broken, match=reason):
        read(content, name)


def test_frames_to_be_skipped_are_no_text():
    assert read(SKIPPED + zstandard.compress(TEXT) + SKIPPED) == TEXT


@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_zeros_at_the_end_are_padding(kind):
    assert read(COMPRESS[kind](TEXT) + bytes(40_000)) == TEXT
    with pytest.raises(compression.Broken, match="damaged|truncated"):
        read(COMPRESS[kind](TEXT) + bytes(400) + b"xyz")


@given(st.text(max_size=40))
def test_text_is_never_taken_for_compressed(text):
    assert read(text.encode()) == text.encode()
