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


OPEN_MPI_5 = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "3",
    "PMIX_NAMESPACE": "prterun-node1-4711@1",
}
OTHER_MPI = [
    {"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALRANKID": "1"},
    {"MV2_COMM_WORLD_SIZE": "4", "MV2_COMM_WORLD_RANK": "3"},
    OPEN_MPI_5 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
]


def test_processes_that_open_mpi_5_starts_on_one_machine_are_one_job():
    mine, other = (place_from(OPEN_MPI_5 | {"OMPI_COMM_WORLD_RANK": rank}) for rank in ("3", "0"))
    assert (mine.num_processes, mine.process_id, mine.local_device_ids) == (4, 3, (3,))
    assert mine.coordinator == other.coordinator and mine.address[0] == "localhost"
    another = place_from(OPEN_MPI_5 | {"PMIX_NAMESPACE": "prterun-node1-4712@1"})
    assert another.coordinator != mine.coordinator


@pytest.mark.parametrize("environ", OTHER_MPI)
def test_ranks_of_mpi_need_a_coordinator(environ):
    with pytest.raises(UserError, match=r"_SIZE=4 makes .*; set JAX_COORDINATOR_ADDRESS=HOST:PORT"):
        place_from(environ)
    place = place_from(environ | {"JAX_COORDINATOR_ADDRESS": "node1:8476"})
    assert (place.coordinator, place.num_processes, place.process_id) == ("node1:8476", 4, 3)


def test_a_single_process_of_mpi_is_a_job_of_its_own():
    assert place_from({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}) is None
    assert place_from(OPEN_MPI_5 | VARIABLES).coordinator == "other:80"


def test_caches_lie_where_the_user_keeps_them():
    assert cache_directory({"XDG_CACHE_HOME": "/there"}) == Path("/there/palmscale")
    assert cache_directory({}) == Path("~/.cache/palmscale").expanduser()


def test_without_a_home_folder_the_variables_to_set_are_named(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user id without a name
    assert cache_directory({"XDG_CACHE_HOME": "/there"}) == Path("/there/palmscale")
    with pytest.raises(UserError, match="the home folder is unknown; set HOME"):
        cache_directory({})
