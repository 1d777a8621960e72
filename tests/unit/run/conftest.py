"""A small run, trained through the Python API in this process; not to be changed."""

import dataclasses

import pytest
from small_run import on_text

import palmscale
from palmscale.checkpoint.warm_start import WarmStart
from palmscale.model.lora import Lora


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="session")
def small_run(folder):
    return on_text(folder)


@pytest.fixture(scope="session")
def workdir(folder):
    return folder / "run"


@pytest.fixture(scope="session")
def result(small_run, workdir):
    return palmscale.train(small_run, workdir)


@pytest.fixture(scope="session")
def adapter_run(small_run, workdir, result):
    """A run that trains adapters for the small run."""
    lora = Lora(rank=2, alpha=64.0, targets=("query", "value", "attention_out", "down"))
    return dataclasses.replace(
        small_run, trainable=lora, warm_start=WarmStart(workdir=str(workdir))
    )


@pytest.fixture(scope="session")
def adapter_workdir(folder, adapter_run):
    """Its folder; not to be written to."""
    palmscale.train(adapter_run, folder / "adapters")
    return folder / "adapters"
