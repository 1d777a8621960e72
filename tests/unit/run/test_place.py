"""Where a process stands, by JAX's variables or by the cluster."""

from pathlib import Path

import pytest

from palmscale.cluster.join import ProcessPlace
from palmscale.errors import UserError
from palmscale.run.place import cache_directory, place_from

VARIABLES = {
    "JAX_COORDINATOR_ADDRESS": "other:80",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "2",
}


def test_the_variables_give_the_place():
    place = ProcessPlace(coordinator="other:80", num_processes=4, process_id=2)
    assert place_from(VARIABLES) == place


def test_without_variables_or_cluster_it_is_a_job_of_its_own():
    assert place_from({}) is None
    assert place_from({"JAX_COORDINATOR_ADDRESS": "other:80"}) is None  # left to JAX


@pytest.mark.parametrize("missing", ["JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES"])
def test_a_part_of_a_place_is_refused_by_what_is_missing(missing):
    with pytest.raises(UserError, match=f"{missing} is not set; set all of JAX_COORD"):
        place_from({name: value for name, value in VARIABLES.items() if name != missing})


def test_a_variable_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="JAX_PROCESS_ID='two' is not a whole number"):
        place_from(VARIABLES | {"JAX_PROCESS_ID": "two"})


def test_caches_lie_where_the_user_keeps_them():
    assert cache_directory({"XDG_CACHE_HOME": "/there"}) == Path("/there/palmscale")
    assert cache_directory({}) == Path("~/.cache/palmscale").expanduser()


def test_without_a_home_folder_the_variables_to_set_are_named(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user id without a name
    assert cache_directory({"XDG_CACHE_HOME": "/there"}) == Path("/there/palmscale")
    with pytest.raises(UserError, match="the home folder is unknown; set HOME"):
        cache_directory({})
