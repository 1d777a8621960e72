import importlib.metadata

import jax
import pytest

from palmscale.errors import UserError
from palmscale.plan.hardware import libtpu
from palmscale.plan.hardware.topology import parse


def test_the_compilation_cache_is_off_while_absent_devices_are_compiled_for():
    before = jax.config.jax_enable_compilation_cache
    with libtpu.compiler():
        assert not jax.config.jax_enable_compilation_cache
    assert jax.config.jax_enable_compilation_cache == before


def test_without_libtpu_the_error_names_the_package(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(UserError, match=r"pip install 'palmscale\[plan\]'"):
        libtpu.check_installed()


def test_a_topology_that_cannot_be_described_says_why(monkeypatch):
    where = parse("v5e-4")

    def describe(self):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(type(where), "describe", describe)
    with pytest.raises(UserError, match="libtpu cannot describe .*: no such thing"):
        libtpu.devices_of(where)
