"""An importable module `toy.palm`, and no configuration left behind."""

import sys
import types

import pytest
import toy_config

from palmscale.cli.config import load


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    """A module `toy.palm` to configure, in an empty current directory."""
    palm = types.ModuleType("toy.palm")
    for thing in (
        toy_config.PaLM,
        toy_config.MeshSpec,
        toy_config.train,
        toy_config.hold,
        toy_config.refuse,
    ):
        setattr(palm, thing.__name__, thing)
    package = types.ModuleType("toy")
    package.palm, package.__path__ = palm, []
    monkeypatch.setitem(sys.modules, "toy", package)
    monkeypatch.setitem(sys.modules, "toy.palm", palm)
    monkeypatch.chdir(tmp_path)
    load.reset()
    yield
    load.reset()
