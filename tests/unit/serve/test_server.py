"""One HTTP server around one engine: it listens, loads, answers, and ends when it is asked to."""

import json
import socket
import threading

import fake_engine
import pytest
from http_server import Running, eventually, serving

from palmscale.errors import UserError
from palmscale.serve.limits import Limits
from palmscale.serve.server import Address, Server


def silent(message):
    pass


def test_it_answers_503_until_the_model_is_loaded():
    gate = threading.Event()

    def load():
        gate.wait(60)
        return fake_engine.served()

    running = Running(load)
    for method, path, body in (
        ("GET", "/health", None),
        ("GET", "/v1/models", None),
        ("POST", "/v1/completions", {"prompt": "a"}),
        ("POST", "/tokenize", {"prompt": "a"}),
    ):
        status, headers, answer = running.request(method, path, body)
        assert status == 503 and answer["error"]["code"] == "loading", path
        assert int(headers["retry-after"]) >= 1
    assert running.get("/")[0] == running.get("/metrics")[0] == 200
    gate.set()
    assert running.loaded().complete(prompt="a")
    running.end()
    assert running.error is None and any(
        line.startswith("Serving tiny at http://127.0.0.1:") for line in running.said
    )


def test_open_streams_finish_while_new_requests_get_503():
    gate = threading.Event()
    engine = fake_engine.FakeEngine(gate=gate, gated_from=3)
    running = Running(lambda: fake_engine.served(engine)).loaded()
    stream = running.open_stream(prompt="a", max_tokens=200)
    running.server.end()
    status, headers, answer = running.request("POST", "/v1/completions", {"prompt": "a"})
    assert status == 503 and answer["error"]["code"] == "shutting_down" and headers["retry-after"]
    assert running.get("/health")[0] == 503
    gate.set()
    seen = b""
    while part := stream.recv(1 << 16):
        seen += part
    assert seen.rstrip(b"\r\n0").endswith(b"data: [DONE]")
    running.thread.join(60)
    assert not running.thread.is_alive() and running.error is None


def test_it_does_not_drain_for_ever():
    gate = threading.Event()
    engine = fake_engine.FakeEngine(gate=gate, gated_from=3)
    running = Running(lambda: fake_engine.served(engine), limits=Limits(drain_seconds=0.2)).loaded()
    stream = running.open_stream(prompt="a", max_tokens=400)
    running.server.end()
    eventually(lambda: any("did not finish within 0.2 s" in line for line in running.said))
    gate.set()
    running.thread.join(60)
    stream.close()
    assert not running.thread.is_alive()


def test_a_failed_step_answers_500_and_ends_the_server_with_the_error():
    running = Running(lambda: fake_engine.served(fails_at=3)).loaded()
    status, answer = running.post("/v1/completions", {"prompt": "a", "max_tokens": 9})
    assert status == 500 and answer["error"]["type"] == "server_error"
    assert "fire" not in json.dumps(answer)
    running.thread.join(60)
    assert isinstance(running.error, RuntimeError) and "on fire" in str(running.error)


def test_a_failed_step_ends_a_stream_with_an_error():
    running = Running(lambda: fake_engine.served(fails_at=3)).loaded()
    text = running.request(
        "POST", "/v1/completions", {"prompt": "a", "max_tokens": 9, "stream": True}
    )[2]
    last = json.loads(text.strip().rpartition("data: ")[2])
    assert last["error"]["type"] == "server_error"
    running.thread.join(60)
    assert isinstance(running.error, RuntimeError)


def test_what_fails_while_loading_ends_the_server_with_the_error():
    def load():
        raise UserError("there is no checkpoint.")

    running = Running(load)
    running.thread.join(60)
    assert isinstance(running.error, UserError)


def test_an_address_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port}: Address already in use"):
            Server(fake_engine.served, address=Address(port=port), say=silent, warn=silent)
    with pytest.raises(UserError, match="host=256.0.0.1"):
        Server(fake_engine.served, address=Address(host="256.0.0.1"), say=silent, warn=silent)


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_server_that_others_reach_without_a_key_says_so(host, warns):
    warned = []
    server = Server(
        fake_engine.served, address=Address(host=host, port=0), say=silent, warn=warned.append
    )
    server._listener.close()
    assert bool(warned) == warns


def test_malformed_http_leaves_the_server_as_it_is():
    with serving(fake_engine.served) as running:
        for content in (b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n"):
            with running.connected() as connection:
                connection.sendall(content)
                assert b"Traceback" not in connection.recv(4096)
        assert running.complete(prompt="a")


def test_a_server_that_was_ended_can_be_started_again_at_the_same_port():
    with serving(fake_engine.served) as running:
        running.complete(prompt="a")
        port = running.port
    server = Server(fake_engine.served, address=Address(port=port), say=silent, warn=silent)
    assert server.url == f"http://127.0.0.1:{port}"
    server._listener.close()
