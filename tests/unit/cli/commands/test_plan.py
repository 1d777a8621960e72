import importlib.metadata

import pytest

from palmscale.cli import main
from palmscale.cli.config import load
from palmscale.errors import UserError
from palmscale.plan import run_plan

PLAN = ["plan", "--gin_file=configs/recipes/cpu_1m.gin", "--topology=v5e-4"]


@pytest.fixture(autouse=True)
def nothing_is_planned(monkeypatch):
    """Whatever would go on to plan ends there."""

    def lowered_step(run, where, sequences):
        raise UserError("it would plan")

    monkeypatch.setattr(run_plan, "lowered_step", lowered_step)
    yield
    load.reset()


def test_without_libtpu_one_line_says_what_to_install(monkeypatch, capsys):
    version = importlib.metadata.version

    def without(name):
        if name == "libtpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    assert main.run(PLAN) == 2
    said = capsys.readouterr().err
    assert "libtpu, which is not installed" in said and "pip install 'palmscale[plan]'" in said


def test_another_libtpu_than_jax_is_released_with_is_reported(monkeypatch, capsys):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.0.99" if name == "libtpu" else version(name)
    )
    main.run(PLAN)
    said = capsys.readouterr().err
    assert "libtpu 0.0.99 is installed, but jax" in said and "it would plan" in said


def test_the_libtpu_of_the_lock_is_the_right_one(capsys):
    main.run(PLAN)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("Compiling") and "would plan" in lines[1]


def test_without_a_topology_or_a_gpu_it_says_what_it_cannot_know(capsys):
    assert main.run(PLAN[:-1]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no topology is named and there is no GPU here" in said and "can be known" in said
