import gzip
import json
import pathlib
import random
import tempfile
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from palmscale.data.sources import compression, jsonl_parquet
from palmscale.data.sources.jsonl_parquet import Jsonl, Parquet, Pile
from palmscale.data.sources.source import BadDocument, Document
from palmscale.errors import UserError

WRITERS = {
    "jsonl": lambda content: content,
    "jsonl.gz": gzip.compress,
    "jsonl.zst": lambda content: zstandard.compress(content),
}
TEXTS = [f"text {i} naïve ▁ {'x' * (i * 37 % 500)}" for i in range(300)]


def lines(texts):
    return b"".join(json.dumps({"text": text, "n": 1}).encode() + b"\n" for text in texts)


def read(source):
    return [document for shard in source.shards() for document in source.documents(shard)]


def texts_of(documents):
    return [document.text for document in documents]


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_line_is_a_document_however_it_is_compressed(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(WRITERS[suffix](lines(TEXTS)[:-1]))
    source = Jsonl(files=f"{tmp_path}/*")
    assert texts_of(read(source)) == TEXTS
    assert all(shard.has_many_documents for shard in source.shards())


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl.zst"])
def test_files_of_several_frames_are_read_to_the_end(tmp_path, suffix):
    write, half = WRITERS[suffix], len(lines(TEXTS)) // 2
    content = write(lines(TEXTS)[:half]) + write(b"") + write(lines(TEXTS)[half:])
    (tmp_path / f"a.{suffix}").write_bytes(content)
    assert texts_of(read(Jsonl(files=f"{tmp_path}/*"))) == TEXTS


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=300), st.integers(1, 40))
def test_lines_do_not_depend_on_where_the_file_is_cut_into_chunks(content, chunk):
    heads = [head for kind in compression._FORMATS for head in kind.heads]
    assume(not content.startswith((*heads, *compression._UNREADABLE)))  # no lines, but compressed
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (pathlib.Path(folder) / "a.jsonl").write_bytes(content)
        (shard,) = Jsonl(files=f"{folder}/a.jsonl").shards()
        patch.setattr(compression, "_PLAIN_BYTES", chunk)
        found = [line for _, line in jsonl_parquet._lines(shard)]
    expected = content.split(b"\n")
    assert found == (expected if expected[-1] else expected[:-1])


def test_a_line_of_many_chunks_is_one_document(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(lines(["x" * 2_000_000]))
    monkeypatch.setattr(compression, "_PLAIN_BYTES", 256)
    (document,) = read(Jsonl(files=f"{tmp_path}/*"))
    assert len(document.text) == 2_000_000


def test_a_window_of_any_size_is_read(tmp_path):
    options = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=options).compressobj()
    content = compressor.compress(lines(["far"])) + compressor.flush()
    (tmp_path / "a.jsonl.zst").write_bytes(content)
    assert read(Jsonl(files=f"{tmp_path}/*")) == [Document("far")]


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_broken_file_gives_what_is_before_the_break_and_names_the_line(tmp_path, suffix, damage):
    noise = random.Random(0)
    texts = ["".join(noise.choices("abcdefgh", k=2000)) for _ in range(400)]
    options = {} if suffix == "jsonl.gz" else {"level": 1}
    content = bytearray(
        zstandard.ZstdCompressor(write_checksum=True, **options).compress(lines(texts))
        if suffix == "jsonl.zst"
        else gzip.compress(lines(texts))
    )
    if damage == "cut":
        content = content[: len(content) * 2 // 3]
    else:
        content[len(content) * 2 // 3] ^= 255
    (tmp_path / f"a.{suffix}").write_bytes(content)
    *good, bad = read(Jsonl(files=f"{tmp_path}/*"))
    assert isinstance(bad, BadDocument) and 0 < len(good) < len(texts) + 1
    if damage == "cut":
        assert texts_of(good) == texts[: len(good)] and "truncated" in bad.reason
        assert bad.location == f"{tmp_path}/a.{suffix}:{len(good) + 1}"


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'{"text": "\xff"}', "byte 10 of the line is not UTF-8"),
        (b'{"text": ', "not JSON"),
        (b'{"body": "x"}', 'no string under the key "text"'),
        (b'{"text": 3}', 'no string under the key "text"'),
        (b'["text"]', 'no string under the key "text"'),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b'{"text": "\\uDC00x"}', "surrogate"),
        (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "a number has too many digits"),
        (b'{"text": "a", "n": ' + b"[" * 100_000, "objects nest too deeply"),
    ],
)
def test_a_wrong_line_is_named_and_the_next_is_read(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_bytes(
        b'{"text": "fine"}\n\n' + line + b'\n{"text": "\\ud83d\\ude00"}\n'
    )
    first, bad, last = read(Jsonl(files=f"{tmp_path}/a.jsonl"))
    assert (first, last) == (Document("fine"), Document("\N{GRINNING FACE}"))
    assert bad.location.endswith("a.jsonl:3") and reason in bad.reason and "\n" not in bad.reason


def test_prompts_and_groups_come_from_their_keys(tmp_path):
    record = {"q": "2+2?", "a": "4", "meta": {"kind": 7}}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n" + json.dumps({"a": "5"}) + "\n")
    source = Jsonl(files=f"{tmp_path}/a.jsonl", text_key="a", prompt_key="q", group_key="meta.kind")
    first, bad = read(source)
    assert first == Document("4", "7", "2+2?") and 'under the key "q"' in bad.reason


def test_the_pile_is_counted_by_set_and_other_sets_keep_their_numbers(tmp_path):
    names = ["ArXiv", "Github", "ArXiv"]
    content = [{"text": f"t{i}", "meta": {"pile_set_name": n}} for i, n in enumerate(names)]
    packed = zstandard.compress("".join(json.dumps(c) + "\n" for c in content).encode())
    (tmp_path / "00.jsonl.zst").write_bytes(packed)
    files = f"{tmp_path}/*.jsonl.zst"
    every = [Document(f"t{i}", name) for i, name in enumerate(names)]
    assert read(Pile(files=files)) == every
    assert read(Pile(files=files, sets=("ArXiv",))) == [every[0], Document(""), every[2]]


def test_parquet_reads_the_columns_it_needs(tmp_path):
    table = pyarrow.table(
        {
            "text": [*TEXTS[:5], None],
            "meta": [{"set": "a"}] * 6,
            "other": list(range(6)),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    *good, bad = read(Parquet(files=f"{tmp_path}/a.parquet", group_key="meta.set"))
    assert good == [Document(text, "a") for text in TEXTS[:5]]
    assert bad.location.endswith("a.parquet:6")
    with pytest.raises(UserError, match="no column 'body' .it has text, meta, other"):
        read(Parquet(files=f"{tmp_path}/a.parquet", text_key="body"))
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "b.parquet").write_bytes(content[: len(content) // 2])
    (bad,) = read(Parquet(files=f"{tmp_path}/b.parquet"))
    assert bad.location.endswith("b.parquet:1") and "cannot be read from here on" in bad.reason


def test_a_row_of_parquet_that_is_not_utf8_is_named_and_the_next_is_read(tmp_path):
    values = pyarrow.array([b"good", b"bad \xff", b"fine"])
    for name, column in (("string", values.view(pyarrow.string())), ("binary", values)):
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / name)
        first, bad, last = read(Parquet(files=f"{tmp_path}/{name}"))
        assert (first, last) == (Document("good"), Document("fine"))
        assert bad.location == f"{tmp_path}/{name}:2" and "byte 4 of the text" in bad.reason


def test_a_column_of_parquet_whose_name_is_not_text_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"name": ["a"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"name", b"n\xffme"))
    (bad,) = read(Parquet(files=str(path)))
    assert bad.location == f"{path}:1" and "cannot be read from here on" in bad.reason


def test_a_flipped_bit_of_parquet_is_seen_by_the_pages_checksum(tmp_path):
    noise = random.Random(0)
    texts = ["".join(noise.choices("abcdefgh", k=500)) for _ in range(3000)]
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts}),
        tmp_path / "a.parquet",
        row_group_size=500,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.parquet").write_bytes(content)
    *good, bad = read(Parquet(files=f"{tmp_path}/a.parquet"))
    assert texts_of(good) == texts[: len(good)] and 0 < len(good) < 1600
    assert bad.location == f"{tmp_path}/a.parquet:{len(good) + 1}" and "CRC" in bad.reason


def test_memory_is_bounded_by_the_documents_not_by_the_file(tmp_path):
    with open(tmp_path / "a.jsonl.zst", "wb") as file:
        with zstandard.ZstdCompressor().stream_writer(file) as writer:
            noise = random.Random(0)
            for _ in range(200):
                text = "".join(noise.choices("abcdefgh", k=50_000))
                writer.write(json.dumps({"text": text}).encode() + b"\n")
    source = Jsonl(files=f"{tmp_path}/*")
    (shard,) = source.shards()
    tracemalloc.start()
    size = sum(len(document.text) for document in source.documents(shard))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 10_000_000 and peak < size / 5


@pytest.mark.parametrize("zeros", [1, 600, 40_000])
def test_zeros_after_gzip_are_padding_and_before_it_are_damage(tmp_path, zeros):
    whole = gzip.compress(b'{"text": "one"}\n') + gzip.compress(b'{"text": "two"}\n')
    path = tmp_path / "a.jsonl.gz"

    def read(content):
        path.write_bytes(content)
        source = Jsonl(files=str(path))
        (shard,) = source.shards()
        return list(source.documents(shard))

    assert [document.text for document in read(whole + bytes(zeros))] == ["one", "two"]
    for bad in (bytes(zeros) + whole, whole + bytes(zeros) + b"xyz"):
        assert "damaged" in read(bad)[-1].reason
    assert "truncated" in read(whole[:-5])[-1].reason
