"""A small run, trained through the Python API in this process; not to be changed."""

import pytest
from small_run import on_text

import palmscale


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
