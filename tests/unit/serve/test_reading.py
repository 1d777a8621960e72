"""The body of a request, within the limits of the server."""

import fake_engine
import pytest
from http_server import serving

from palmscale.serve.limits import Limits


@pytest.fixture(scope="module")
def running():
    limits = Limits(body_bytes=50_000, body_seconds=0.5)
    with serving(fake_engine.served, limits=limits) as running:
        yield running


def test_only_json_of_a_bounded_size_is_read(running):
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data"}):
        assert running.request("POST", "/v1/completions", b"{}", headers)[0] == 415
    large = {"prompt": "a" * 60_000}
    status, answer = running.post("/v1/completions", large)
    assert status == 413 and "50,000 bytes" in answer["error"]["message"]


def test_a_body_without_a_length_is_bounded_as_well(running):
    with running.connected() as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        connection.sendall(head + b"Content-Type: application/json\r\n\r\n")
        part = b"1000\r\n" + b"a" * 0x1000 + b"\r\n"
        for _ in range(20):
            connection.sendall(part)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_come_is_not_waited_for(running):
    with running.connected() as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
        connection.sendall(head + b"Content-Type: application/json\r\n\r\n{")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")
