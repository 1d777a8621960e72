import struct
import sys

import pytest

from palmscale.data.plots import plot_documents, plot_mixture
from palmscale.errors import UserError

SPLIT = {
    "documents": 12,
    "length_histogram": [0, 0, 3, 0, 5, 4],
    "groups": {f"set {i}": {"documents": 1, "tokens": 10 * i, "utf8_bytes": 10} for i in range(30)},
}


def test_a_picture_is_a_png_of_some_size_and_depends_on_the_documents(tmp_path):
    plot_documents(SPLIT, tmp_path / "a.png", title="a cache")
    plot_documents(SPLIT | {"length_histogram": [1]}, tmp_path / "b.png", title="a cache")
    a, b = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert a.startswith(b"\x89PNG\r\n") and a != b
    width, height = struct.unpack(">II", a[16:24])
    assert width > 1000 and height > 400


def test_an_empty_split_is_drawn_too(tmp_path):
    empty = {"documents": 0, "length_histogram": [], "groups": {}}
    plot_documents(empty, tmp_path / "a.png", title="nothing")
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize("count", [1, 3, 15])
def test_a_mixture_is_drawn_whatever_the_number_of_its_sources(tmp_path, count):
    splits = {f"source {i}": SPLIT | {"tokens": 100 * i} for i in range(count)}
    plot_mixture(splits, dict.fromkeys(splits, 1.0), tmp_path / "a.png")
    plot_mixture(splits, {name: i + 1.0 for i, name in enumerate(splits)}, tmp_path / "b.png")
    a, b = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert a.startswith(b"\x89PNG\r\n") and (a != b or count == 1)


def test_a_source_without_documents_is_drawn_too(tmp_path):
    empty = {"documents": 0, "tokens": 0, "length_histogram": []}
    plot_mixture({"a": empty, "b": SPLIT | {"tokens": 5}}, {"a": 1, "b": 1}, tmp_path / "a.png")
    plot_mixture({"a": empty}, {"a": 1}, tmp_path / "b.png")


def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="the plot .*No such file"):
        plot_documents(SPLIT, tmp_path / "no" / "a.png", title="a")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'palmscale\[plot\]'"):
        plot_documents(SPLIT, tmp_path / "a.png", title="a")
