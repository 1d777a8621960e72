"""The one thread that owns the engine: it loads it, feeds it, and tells what comes of it."""

import threading

import fake_engine
import pytest
from http_server import eventually

from palmscale.errors import UserError
from palmscale.infer.request import Request
from palmscale.serve.decode_thread import DecodeThread


class Told:
    """What the thread tells, noted."""

    def __init__(self):
        self.served, self.errors, self.texts, self.finished = None, {}, {}, set()
        self.end = None

    def loaded(self, served):
        self.served = served

    def outputs(self, outputs):
        for ticket, output in outputs:
            self.texts.setdefault(ticket, []).extend(token.id for token in output.tokens)
            if output.finished:
                self.finished.add(ticket)

    def refused(self, ticket, error):
        self.errors[ticket] = error

    def ended(self, error):
        self.end = [error]


@pytest.fixture
def started():
    threads = []

    def start(load, tell=lambda function: function()):
        told = Told()
        threads.append(DecodeThread(load, told, tell))
        threads[-1].start()
        return threads[-1], told

    yield start
    for thread in threads:
        thread.stop(60)


def request(max_tokens=5):
    return Request(prompt=[0, 5], max_tokens=max_tokens)


def test_outputs_carry_the_ticket_of_their_request(started):
    thread, told = started(fake_engine.served)
    for ticket in (7, 8, 9):
        thread.submit(ticket, request(ticket))
    eventually(lambda: told.finished == {7, 8, 9})
    assert {ticket: len(ids) for ticket, ids in told.texts.items()} == {7: 7, 8: 8, 9: 9}


def test_a_canceled_request_is_told_no_more(started):
    gate = threading.Event()
    engine = fake_engine.FakeEngine(gate=gate, gated_from=2)
    thread, told = started(lambda: fake_engine.served(engine))
    thread.submit(1, request(400))
    eventually(lambda: told.texts.get(1))
    thread.cancel(1)
    thread.cancel(1)
    thread.cancel(99)
    gate.set()
    eventually(lambda: not engine.busy)
    assert not told.finished


def test_a_request_that_the_engine_refuses_ends_nothing_else(started):
    thread, told = started(lambda: fake_engine.served(context_length=10))
    thread.submit(1, request(50))
    thread.submit(2, request(3))
    eventually(lambda: told.finished == {2})
    assert isinstance(told.errors[1], UserError)


def test_an_error_of_a_step_ends_the_thread_and_is_told(started):
    thread, told = started(lambda: fake_engine.served(fails_at=1))
    thread.submit(1, request())
    eventually(lambda: told.end)
    assert "on fire" in str(told.end[0])


def test_it_ends_when_nobody_listens(started):
    def closed(function):
        raise RuntimeError("Event loop is closed")

    thread, told = started(fake_engine.served, closed)
    thread.submit(1, request())
    thread.stop(60)
    assert told.served is None
