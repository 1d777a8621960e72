import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import small_plan
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import palmscale
from palmscale.plan import cache
from palmscale.plan.hardware.topology import parse

DEVICE = jax.devices()[0]
MESH = Mesh(np.array([[DEVICE]]), ("data", "model"))
WEIGHT = jax.ShapeDtypeStruct((8, 8), np.float32, sharding=NamedSharding(MESH, PartitionSpec()))
STEP = small_plan.step(mesh=MESH, params={"w": WEIGHT})
WHERE = parse("v5e-1")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "palmscale/plans"


def key(step=STEP, where=WHERE, options=None, **changes):
    return cache.key_of(dataclasses.replace(step, **changes), where, options or {})


def test_a_verdict_is_found_by_all_that_decides_it():
    assert cache.read(key()) is None
    cache.write(key(), small_plan.fits())
    assert cache.read(key()) == small_plan.fits()
    cache.write(key(), small_plan.does_not_fit())
    assert cache.read(key()) == small_plan.does_not_fit()


@pytest.mark.parametrize(
    "other",
    [
        {"digest": "e" * 64},
        {"where": parse("v5e-4")},
        {"options": {"xla_some_option": True}},
        {"num_params": 2},
        {"attention_flops_per_token": 0},
        {"optimizer_state": {"moment": WEIGHT}},
        {"where": dataclasses.replace(WHERE, chip=dataclasses.replace(WHERE.chip, clock_hz=1e9))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_step_topology_chip_or_option_is_another_key(other):
    assert key(**other) != key()


def test_another_peak_is_another_key(monkeypatch):
    before = key()
    monkeypatch.setattr(type(WHERE.chip), "device_peak_flops", 1e12)
    assert key() != before


def test_another_compiler_is_another_key(monkeypatch):
    before = key()
    monkeypatch.setattr(cache, "compiler_versions", lambda: {"jax": "0"})
    assert key() != before


@pytest.mark.parametrize(
    ("file", "decides"),
    [
        ("plan/hardware/chips.py", True),
        ("observe/throughput.py", True),  # the peaks
        ("plan/program/collectives.py", True),
        ("train/compile.py", True),
        ("train/step.py", True),
        ("plan/plans.py", False),  # the price and the token budget
        ("plan/report/page.py", False),
        ("cli/commands/plan.py", False),
    ],
)
def test_an_edit_of_what_decides_the_verdict_is_another_key(file, decides, tmp_path):
    package = Path(palmscale.__file__).parent
    copy = tmp_path / "palmscale"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert cache.sources_digest(copy) == cache.sources_digest(package)
    (copy / file).write_text(f"{(copy / file).read_text()}\n# edited\n")
    cache.sources_digest.cache_clear()
    assert (cache.sources_digest(copy) != cache.sources_digest(package)) == decides


def test_a_file_that_cannot_be_read_is_no_verdict(folder):
    cache.write("k", small_plan.fits())
    (folder / "k.json").write_text('{"fits": tr')
    assert cache.read("k") is None
    (folder / "k.json").write_text('{"fits": true}')
    assert cache.read("k") is None


def test_a_folder_that_cannot_be_written_costs_only_the_memory(folder):
    folder.parent.write_text("a file where the folder would be")
    cache.write("k", small_plan.fits())
    assert cache.read("k") is None
