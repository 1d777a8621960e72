"""`/v1/completions`: from a request to its answer, as long as the client is there."""

import json
import threading
import time

import fake_engine
import http_server
import pytest
from http_server import eventually

from palmscale.errors import UserError
from palmscale.serve.limits import Limits

TEXT = fake_engine.TEXT


@pytest.fixture
def gate():
    """Steps of the engine wait while it is cleared."""
    gate = threading.Event()
    gate.set()
    return gate


@pytest.fixture
def engine(gate):
    return fake_engine.FakeEngine(slots=2, context_length=4096, gate=gate)


@pytest.fixture
def running(engine, gate):
    limits = Limits(waiting_sequences=2)
    with http_server.serving(lambda: fake_engine.served(engine), limits=limits) as running:
        yield running
        gate.set()
        eventually(lambda: not engine.busy)  # whatever happened, no slot is held


def test_an_answer_in_one_piece(running):
    answer = running.complete(prompt="a", max_tokens=10, n=2)
    assert [choice["text"] for choice in answer["choices"]] == [TEXT[:7]] * 2
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["prompt_tokens"] == 1 and answer["usage"]["completion_tokens"] == 20
    assert answer["object"] == "text_completion" and answer["model"] == "tiny"


def test_a_stop_string_frees_the_slot(running, engine):
    answer = running.complete(prompt="a", max_tokens=4000, stop="→")
    assert answer["choices"][0] == {
        "index": 0, "text": "naïve ", "logprobs": None, "finish_reason": "stop"
    }  # fmt: skip
    eventually(lambda: not engine.busy)


def events(text):
    """The data of each event of a stream."""
    assert text.endswith("\n\n")
    return [line.removeprefix("data: ") for line in text[:-2].split("\n\n")]


def test_a_stream_ends_with_done_and_never_breaks_a_character(running):
    body = {"prompt": "a", "max_tokens": 30, "stream": True}
    status, headers, text = running.request("POST", "/v1/completions", body)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(text)
    assert done == "[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices).startswith(TEXT)
    assert all("\ufffd" not in choice["text"] for choice in choices[:-1])
    assert [choice["finish_reason"] for choice in choices][-1] == "length"
    assert {choice["finish_reason"] for choice in choices[:-1]} == {None}


def test_usage_comes_last_where_it_is_asked_for(running):
    body = {"prompt": "ab", "max_tokens": 3, "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    *chunks, last, _ = events(running.request("POST", "/v1/completions", body)[2])
    assert all(json.loads(chunk)["usage"] is None for chunk in chunks)
    last = json.loads(last)
    assert last["choices"] == [] and last["usage"]["total_tokens"] == 5


def test_usage_so_far_comes_with_every_event_where_that_is_asked_for(running):
    body = {"prompt": "ab", "max_tokens": 3, "stream": True, "logprobs": 0}
    body |= {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    *chunks, last, _ = events(running.request("POST", "/v1/completions", body)[2])
    drawn = [json.loads(chunk)["usage"]["completion_tokens"] for chunk in chunks]
    assert drawn == [1, 2, 3] and json.loads(last)["choices"] == []


def test_a_disconnect_in_mid_stream_frees_the_slot(running, engine):
    for _ in range(3):
        running.open_stream(prompt="a", max_tokens=4000).close()
    eventually(lambda: not engine.busy)
    assert running.complete(prompt="a", max_tokens=3)


def test_a_disconnect_of_one_who_waits_frees_the_slot(running, engine, gate):
    gate.clear()
    connection = running.connected()
    content = json.dumps({"prompt": "a", "max_tokens": 4000}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
    connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)
    eventually(lambda: engine.submitted)
    connection.close()
    eventually(lambda: any("not finished" in line for line in running.said))
    gate.set()
    eventually(lambda: not engine.busy)


def test_a_slow_reader_delays_nobody_and_holds_no_slot(running, engine):
    body = {"prompt": "a" * 90, "max_tokens": 3000, "logprobs": 8}
    slow = [running.open_stream(**body) for _ in range(2)]
    assert running.complete(prompt="a", max_tokens=2)["choices"][0]["text"] == "na"
    eventually(lambda: not engine.busy)  # though nobody has read what they drew
    for connection in slow:
        connection.close()


def test_more_than_may_wait_are_told_to_try_again(running, engine, gate):
    gate.clear()
    open_ones = []
    for _ in range(4):  # 2 slots, and 2 that wait
        content = {"prompt": "a", "max_tokens": 5}
        open_ones.append(threading.Thread(target=running.complete, kwargs=content))
        open_ones[-1].start()
    eventually(lambda: running_sequences(running) == 4)
    status, headers, answer = running.request("POST", "/v1/completions", {"prompt": "a"})
    assert status == 429 and int(headers["retry-after"]) >= 1
    assert answer["error"]["type"] == "rate_limit_error"
    gate.set()
    for one in open_ones:
        one.join(60)
    assert running.complete(prompt="a")


def running_sequences(running):
    """How many sequences the server has open."""
    http = running.server._http
    return http._dispatcher.open_sequences


def test_every_sequence_of_a_request_counts(running):
    status, answer = running.post("/v1/completions", {"prompt": "a", "n": 5})
    assert status == 400 and answer["error"]["param"] == "n"
    assert running.complete(prompt="a", n=4)


def test_a_request_that_the_engine_refuses_is_the_users_mistake(running, engine, monkeypatch):
    def refuse(request):
        raise UserError("max_tokens=50 is too many.")

    monkeypatch.setattr(engine, "submit", refuse)
    status, answer = running.post("/v1/completions", {"prompt": "a", "max_tokens": 50})
    assert status == 400 and answer["error"]["param"] == "max_tokens"
    text = running.request(
        "POST", "/v1/completions", {"prompt": "a", "max_tokens": 50, "stream": True}
    )[2]
    (error,) = events(text)
    assert json.loads(error)["error"]["param"] == "max_tokens"


def test_requests_side_by_side_each_get_their_own(running, engine):
    found = {}

    def ask(number):
        for _ in range(20):
            try:
                prompt = "é" * number
                answer = running.complete(prompt=prompt, max_tokens=number, echo=True)
                found[number] = answer["choices"][0]["text"]
                return
            except AssertionError:
                time.sleep(0.05)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    drawn = TEXT.encode() * 2
    assert found == {
        number: "é" * number + drawn[:number].decode(errors="replace") for number in range(1, 9)
    }
