import importlib.metadata

import pytest

from palmscale.cli import gin_config, main
from palmscale.cli import plan as command

PLAN = ["plan", "--gin_file=configs/recipes/cpu_1m.gin", "--topology=v5e-4"]


@pytest.fixture(autouse=True)
def nothing_is_planned(monkeypatch):
    """Whatever would go on to plan says so; the environment is left as it was."""
    monkeypatch.setattr(command, "ENVIRONMENT", {})
    monkeypatch.setattr("palmscale.cli.planning.use_no_device", lambda: None)
    monkeypatch.setattr("palmscale.cli.planning.plan", lambda args, run, where: 0)
    yield
    gin_config.reset()


def test_without_libtpu_one_line_says_what_to_install(monkeypatch, capsys):
    version = importlib.metadata.version

    def without(name):
        if name == "libtpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    assert main.run(PLAN) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "libtpu, which is not installed" in said and "pip install 'palmscale[plan]'" in said


def test_another_libtpu_than_jax_is_released_with_is_said(monkeypatch, capsys):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.0.99" if name == "libtpu" else version(name)
    )
    assert main.run(PLAN) == 0
    assert "libtpu 0.0.99 is here" in capsys.readouterr().err


def test_the_libtpu_of_the_lock_is_the_right_one(capsys):
    assert main.run(PLAN) == 0
    assert capsys.readouterr().err == ""


def test_without_a_topology_or_a_gpu_it_says_what_it_cannot_know(capsys):
    assert main.run(PLAN[:-1]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no topology is named and there is no GPU here" in said and "cannot be known" in said
