import re
import struct

import numpy as np

from palmscale.cli import main
from palmscale.data.dataset import Component, Data
from palmscale.data.open import open_caches, open_or_build, training_rows
from palmscale.data.preview import row_text, rows_of
from palmscale.data.row_cache import RowCache
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.text_files import TextFiles
from palmscale.data.stream import BatchSchedule
from palmscale.data.vocabulary import ByteVocabulary

BYTES = ByteVocabulary()


def test_show_prints_rows_with_their_boundaries_and_counts(folder, capsys):
    assert main.run(["data", "show", str(folder), "--rows=100000"]) == 0
    printed = capsys.readouterr().out
    split = RowCache.open(folder).split("train")
    ids = split.read(np.arange(split.num_rows))["target"]
    assert printed.count("--- row ") == split.num_rows
    assert printed.count("\n[eod]\n") == (ids == BYTES.eod_id).sum()
    assert f"distinct     {len(np.unique(ids))} of the 259" in printed
    assert f"tokens       {ids.size:,} in the first {split.num_rows} rows" in printed
    assert "\x1b" not in printed


def test_show_says_where_a_split_is_empty(text, tmp_path, capsys):
    lone = Data(
        corpus=Corpus(source=TextFiles(files=f"{text}/a.txt")),
        sequence_length=32,
        seed=0,
        cache_directory=str(tmp_path),
    )
    cache = open_or_build(lone)
    assert main.run(["data", "show", str(cache.directory), "--split=validation"]) == 2
    assert "--split=validation" in capsys.readouterr().err


def test_a_folder_that_is_no_cache_is_the_users_mistake(tmp_path, capsys):
    assert main.run(["data", "show", str(tmp_path / "no")]) == 2
    assert "manifest.json" in capsys.readouterr().err


def test_a_mixture_is_shown_in_the_order_of_training_with_each_rows_source(mixture_flags, capsys):
    flags, folders = mixture_flags
    assert main.run(["data", "show", *flags, "--rows=10"]) == 0
    _, *shown, counted = capsys.readouterr().out.split("---")
    parts = zip(("first", "second"), folders)
    components = tuple(Component(name=name, weight=1, cache=str(each)) for name, each in parts)
    data = Data(components=components, sequence_length=32, seed=0)
    mixed = training_rows(data, open_caches(data), BatchSchedule(((0, 8),)))
    numbers = np.arange(10)
    texts = [row_text(row, BYTES) for row in rows_of(mixed.read(numbers))]
    assert {"first", "second"} == set(mixed.names(numbers))
    assert shown == [
        f" row {number} of the mixture: {name}\n{text}\n"
        for number, name, text in zip(numbers, mixed.names(numbers), texts)
    ]
    for name, each in zip(("first", "second"), folders):
        split = RowCache.open(each).split("train")
        cells = re.split(r"\s{2,}", re.search(rf"^{name} .*$", counted, re.MULTILINE)[0].strip())
        assert cells[1:3] == ["50.00%", f"{split.num_rows}"]
        assert cells[-1] == f"{2 * split.num_rows}"  # rows of the mixture to an epoch of it
    assert "distinct" in counted and "32,000 in the first 1,000 rows" in counted


def test_held_out_rows_of_a_mixture_are_shown_by_source(mixture_flags, capsys):
    flags, folders = mixture_flags
    assert main.run(["data", "show", *flags, "--rows=2", "--split=validation"]) == 0
    printed = capsys.readouterr().out
    total = RowCache.open(folders[0]).split("validation").num_rows
    assert f"--- row 1 of {total} of first\n" in printed and "of second" not in printed


def test_the_picture_of_a_mixture_has_all_its_sources(mixture_flags, tmp_path, capsys):
    flags, _ = mixture_flags
    assert main.run(["data", "show", *flags, f"--picture={tmp_path}/a.png"]) == 0
    assert f"picture  {tmp_path}/a.png" in capsys.readouterr().out
    width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
    assert width > 1000 and height > 400


def test_changes_of_the_weights_are_told(mixture_flags, capsys):
    flags, _ = mixture_flags
    change = "--gin.second/Component.weight=((0, 1), (500, 3))"
    assert main.run(["data", "show", *flags, change]) == 0
    assert re.search(r"from step 500 +first 25.00%  second 75.00%", capsys.readouterr().out)
