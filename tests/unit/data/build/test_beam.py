"""What needs no Apache Beam; tests/e2e/test_beam.py runs real pipelines, where Beam is."""

import sys

import pytest

from palmscale.data.build import beam
from palmscale.data.build.beam import BeamPipelines
from palmscale.errors import UserError


def double(item, count):
    count(item)
    return {"twice": 2 * item}


class FakeBeam:
    """The few names of Beam that are used, each element through each step at once."""

    class Pipeline:
        def __init__(self, options):
            self.options, self.items = options, None

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def __or__(self, step):
            self.items = step(self.items)
            return self

    @staticmethod
    def Create(items):
        return lambda nothing: items

    @staticmethod
    def Reshuffle():
        return lambda items: items[::-1]

    @staticmethod
    def Map(function):
        return lambda items: [function(item) for item in items for _ in range(2)]  # retried


@pytest.fixture
def fake_beam(monkeypatch):
    options = type(sys)("options")
    options.PipelineOptions = list
    monkeypatch.setitem(sys.modules, "apache_beam", FakeBeam)
    monkeypatch.setitem(sys.modules, "apache_beam.options", options)
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", options)


def test_results_come_in_the_order_of_the_items_and_leave_nothing(tmp_path, fake_beam):
    results = list(BeamPipelines(["--x"], tmp_path / "new").each(double, [3, 4, 5], print))
    assert results == [{"twice": 6}, {"twice": 8}, {"twice": 10}]
    assert list((tmp_path / "new").iterdir()) == []


def test_where_beam_is_absent_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match="requirements-beam.txt"):
        list(beam.BeamPipelines([], tmp_path).each(double, [1], print))
