"""The roll call: all are there and known by name, or who is missing is named to all."""

import concurrent.futures
import dataclasses
import inspect
import socket
import threading
import time

import pytest
import tiny_job

from palmscale.cluster import join
from palmscale.cluster.join import Deadlines, ProcessPlace, detect, roll_call
from palmscale.errors import HostLost, UserError


def called(places, seconds=20):
    """What each place's roll call returns or raises."""

    def one(place):
        try:
            return roll_call(place, seconds)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(one, places))


def places(count, *, of=None, indices=None):
    coordinator = f"localhost:{tiny_job.free_port()}"
    return [
        ProcessPlace(coordinator=coordinator, num_processes=of or count, process_id=index)
        for index in indices or range(count)
    ]


@pytest.mark.parametrize("count", [2, 5])
def test_all_learn_every_hosts_name(count):
    assert called(places(count)) == [[socket.gethostname()] * count] * count


def test_the_missing_are_named_to_all_who_came():
    for error in called(places(2, of=4), seconds=1):
        assert isinstance(error, HostLost)
        assert "process 2, 3 of 4 did not join within 1 s; joined: 0 (" in str(error)
        assert "tpu_pod.sh run" in str(error)


def test_without_process_0_the_others_say_where_they_looked():
    (error,) = called(places(1, of=2, indices=[1]), seconds=1)
    assert isinstance(error, HostLost)
    assert "process 0 did not answer at localhost:" in str(error) and "refused" in str(error)


def test_two_that_say_they_are_the_same_are_refused():
    errors = called(places(3, of=3, indices=[0, 1, 1]), seconds=5)
    assert all("both have process_id=1" in str(error) for error in errors)
    assert all(isinstance(error, UserError) for error in errors)


def test_two_that_count_differently_are_refused():
    first, second = places(2)
    more = ProcessPlace(coordinator=second.coordinator, num_processes=3, process_id=1)
    for error in called([first, more], seconds=5):
        assert isinstance(error, UserError)
        assert "has num_processes=3 and process 0" in str(error)


def test_a_stranger_at_the_port_is_passed_over():
    first, second = places(2)

    def disturb():
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                with socket.create_connection(first.address, timeout=1) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return
            except OSError:
                time.sleep(0.05)

    stranger = threading.Thread(target=disturb)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waits = pool.submit(roll_call, first, 20)
        stranger.start()
        stranger.join()
        assert pool.submit(roll_call, second, 20).result() == waits.result()


def test_a_port_in_use_is_waited_for():
    first, second = places(2)
    with socket.create_server(("", first.address[1])) as taken:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(roll_call, place, 60) for place in (first, second)]
            time.sleep(0.5)
            assert not any(one.done() for one in waiting)
            taken.close()
            assert waiting[0].result() == waiting[1].result() == [socket.gethostname()] * 2


def test_a_port_that_stays_in_use_is_named_and_a_restart_may_help():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        place = ProcessPlace(coordinator=f"localhost:{port}", num_processes=2, process_id=0)
        with pytest.raises(HostLost, match=f"port {port}: another program has used it for 1 s"):
            roll_call(place, 1)


def test_a_port_that_may_not_be_used_is_the_users_to_change(monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", denied)
    place = ProcessPlace(coordinator="localhost:80", num_processes=2, process_id=0)
    with pytest.raises(UserError, match=r"cannot listen on port 80 \(Permission denied\); choose"):
        roll_call(place, 1)


def own_addresses():
    """The addresses of this machine that lead to itself; not every machine has IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return ["localhost", "127.0.0.1"]
    return ["localhost", "127.0.0.1", "[::1]"]


@pytest.mark.parametrize("host", own_addresses())
def test_all_addresses_of_process_0_lead_to_it(host):
    both = places(2)
    port = both[0].address[1]
    both = [dataclasses.replace(place, coordinator=f"{host}:{port}") for place in both]
    assert called(both) == [[socket.gethostname()] * 2] * 2


def test_whom_it_waits_for_is_said_once_while_it_waits(monkeypatch):
    monkeypatch.setattr(join, "_TELL_AFTER_SECONDS", 0.1)
    said = []
    with pytest.raises(HostLost):
        roll_call(places(1, of=3)[0], 1, say=said.append)
    (line,) = said
    assert line.startswith("waiting for process 1, 2;")


@pytest.mark.parametrize("coordinator", ["localhost", "localhost:", ":80", "a:b", "a:70000"])
def test_an_address_that_is_none_is_refused(coordinator):
    with pytest.raises(UserError, match="HOST:PORT"):
        ProcessPlace(coordinator=coordinator, num_processes=2, process_id=0)


def test_an_address_may_be_of_ip_6():
    assert ProcessPlace(coordinator="[::1]:80", num_processes=2, process_id=0).address == (
        "::1",
        80,
    )


@pytest.mark.parametrize(("count", "index"), [(2, 2), (2, -1), (0, 0)])
def test_a_number_out_of_range_is_refused(count, index):
    with pytest.raises(UserError, match="is out of range"):
        ProcessPlace(coordinator="a:80", num_processes=count, process_id=index)


@pytest.mark.parametrize("seconds", [0, -1.0, 1e10, float("inf"), float("nan")])
def test_deadlines_are_at_least_a_second_and_what_clocks_take(seconds):
    with pytest.raises(UserError, match="step_seconds=.* must be 1 to 1,000,000,000 seconds"):
        Deadlines(step_seconds=seconds)


def test_slurm_tells_the_place(monkeypatch):
    slurm = {"JOB_ID": "77", "STEP_NODELIST": "node[3-4]", "NTASKS": "2", "PROCID": "1"}
    for name, value in (slurm | {"LOCALID": "0", "STEP_NUM_NODES": "2"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    place = detect(1)
    assert (place.num_processes, place.process_id) == (2, 1)
    assert place.coordinator.startswith("node3:")


def test_alone_there_is_no_place():
    assert detect(1) is None


def test_what_is_used_of_jaxs_own_detection_is_there():
    from jax._src.clusters import ClusterEnv

    parameters = inspect.signature(ClusterEnv.auto_detect_unset_distributed_params).parameters
    assert list(parameters) == [
        "coordinator_address",
        "num_processes",
        "process_id",
        "local_device_ids",
        "cluster_detection_method",
        "initialization_timeout",
    ]
