"""Where a process stands: by its flags, by JAX's variables, or by the cluster."""

import argparse

import pytest

from palmscale.cli.job import given_place
from palmscale.cluster.join import Place
from palmscale.errors import UserError

VARIABLES = {
    "JAX_COORDINATOR_ADDRESS": "other:80",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "2",
}


def flags(coordinator=None, num_processes=None, process_id=None):
    return argparse.Namespace(
        coordinator=coordinator, num_processes=num_processes, process_id=process_id
    )


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def variables(monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


def test_without_either_no_place_is_given():
    assert given_place(flags()) is None


def test_the_flags_win_over_the_variables(variables):
    place = Place(coordinator="here:90", num_processes=2, process_id=0)
    assert given_place(flags("here:90", 2, 0)) == place


def test_the_variables_serve_where_there_are_no_flags(variables):
    assert given_place(flags()) == Place(coordinator="other:80", num_processes=4, process_id=2)


def test_the_address_alone_is_left_to_jax(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "other:80")
    assert given_place(flags()) is None


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("a:80", 2, None), "process_id"),
        (("a:80", None, 0), "num_processes"),
        ((None, 2, 0), "coo"),
    ],
)
def test_a_part_of_a_place_is_refused_by_what_is_missing(given, missing):
    with pytest.raises(UserError, match=f"--{missing}.* is missing"):
        given_place(flags(*given))


def test_a_variable_that_is_no_number_is_refused(variables, monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "two")
    with pytest.raises(UserError, match="'two'"):
        given_place(flags())
