"""Orders for an engine, and its outputs by ticket: the same on every process of a job."""

import queue
import signal

import fake_engine
import pytest
from http_server import serving

from palmscale.errors import UserError
from palmscale.infer.request import Request
from palmscale.serve.desk import Desk, follow
from palmscale.serve.orders import Cancel, Submit


def submit(ticket, max_tokens=3):
    return Submit(ticket, Request(prompt=[0, 5], max_tokens=max_tokens))


def test_outputs_have_the_tickets_of_their_orders():
    desk = Desk(fake_engine.FakeEngine())
    assert desk.do([submit(7), submit(9, max_tokens=5), Cancel(99)]) == []
    drawn = {7: 0, 9: 0}
    while desk.busy:
        for ticket, output in desk.step():
            drawn[ticket] += len(output.tokens)
    assert drawn == {7: 3, 9: 5}


def test_a_canceled_ticket_has_no_more_outputs():
    desk = Desk(fake_engine.FakeEngine())
    desk.do([submit(1, max_tokens=99), submit(2)])
    desk.step()
    desk.do([Cancel(1), Cancel(1)])
    assert {ticket for ticket, _ in desk.step()} == {2}


def test_what_the_engine_refuses_is_returned_with_its_ticket():
    refused = Desk(fake_engine.FakeEngine(context_length=10)).do([submit(1, 50), submit(2, 2)])
    assert [(ticket, type(error)) for ticket, error in refused] == [(1, UserError)]


@pytest.fixture
def signals():
    """Whatever a test does to signals, afterwards they are as they were."""
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)}
    yield
    for sign, handler in before.items():
        signal.signal(sign, handler)


def test_one_who_follows_makes_the_same_calls_as_process_0(signals):
    shared = queue.SimpleQueue()
    first, second = fake_engine.FakeEngine(), fake_engine.FakeEngine()
    with serving(lambda: fake_engine.served(first), share=shared.put) as running:
        running.complete(prompt=["a", "b"], max_tokens=9, n=2, seed=3)
        running.open_stream(prompt="c", max_tokens=400).close()
        running.complete(prompt="d", stop="v", max_tokens=99, guided_regex="n.*")
    follow(lambda: fake_engine.served(second), lambda: shared.get(timeout=60))
    assert next(first._steps) == next(second._steps)
    plain = [[r.prompt.tolist(), r.seed, r.sampling, bool(r.guide)] for r in second.submitted]
    assert plain == [
        [r.prompt.tolist(), r.seed, r.sampling, bool(r.guide)] for r in first.submitted
    ]
    assert len(plain) == 6 and signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
