"""The open requests: who waits for which sequence, and who may still come in."""

import asyncio

import fake_engine
import pytest

from palmscale.infer.request import Request
from palmscale.serve.dispatcher import Dispatcher
from palmscale.serve.limits import Limits
from palmscale.serve.metrics import Metrics
from palmscale.serve.refusal import Refusal


def request(max_tokens=5):
    return Request(prompt=[0, 5], max_tokens=max_tokens), None


def in_loop(test, load=fake_engine.served, limits=Limits(waiting_sequences=2)):
    """Runs a coroutine of a dispatcher that is loaded."""

    async def run():
        loaded = asyncio.Event()
        dispatcher = Dispatcher(
            load, limits=limits, metrics=Metrics(), opened=lambda served: loaded.set()
        )
        await asyncio.wait_for(loaded.wait(), 60)
        try:
            await test(dispatcher)
        finally:
            await asyncio.to_thread(dispatcher.stop, 60)

    asyncio.run(run())


def test_each_sequence_of_a_request_ends_once():
    async def test(dispatcher):
        with dispatcher.open([request(3), request(5)]) as opened:
            found = [(index, output) async for index, output in opened]
        drawn = {0: 0, 1: 0}
        for index, output in found:
            drawn[index] += len(output.tokens)
        assert drawn == {0: 3, 1: 5} and sum(bool(output.finished) for _, output in found) == 2
        assert dispatcher.open_sequences == 0

    in_loop(test)


def test_leaving_gives_the_sequences_up():
    engine = fake_engine.FakeEngine(context_length=10**6)

    async def test(dispatcher):
        with dispatcher.open([request(10**5), request(10**5)]) as opened:
            async for _ in opened:
                break
        assert dispatcher.open_sequences == 0
        while engine.busy:
            await asyncio.sleep(0.01)

    in_loop(test, lambda: fake_engine.served(engine))


def test_one_of_several_sequences_can_be_given_up():
    async def test(dispatcher):
        with dispatcher.open([request(400), request(5)]) as opened:
            opened.cancel(0)
            assert {index async for index, _ in opened} == {1}

    in_loop(test)


def test_no_more_than_may_wait_come_in():
    async def test(dispatcher):
        with dispatcher.open([request(400)] * 5), dispatcher.open([request(400)]):
            with pytest.raises(Refusal) as raised:
                dispatcher.open([request(1)])
            assert raised.value.status == 429 and raised.value.retry_after_seconds
        with dispatcher.open([request(1)]):
            pass

    in_loop(test)


def test_while_it_drains_nobody_comes_in():
    async def test(dispatcher):
        with dispatcher.open([request(3)]) as opened:
            dispatcher.draining = True
            with pytest.raises(Refusal) as raised:
                dispatcher.open([request(1)])
            assert raised.value.status == 503
            assert [output.finished async for _, output in opened][-1] == "length"

    in_loop(test)


def test_a_failure_ends_everybody():
    async def test(dispatcher):
        with dispatcher.open([request(400)]) as opened:
            with pytest.raises(Refusal) as raised:
                async for _ in opened:
                    pass
        assert raised.value.status == 500
        with pytest.raises(Refusal):
            dispatcher.open([request(1)])
        assert "on fire" in str(dispatcher.failure)

    in_loop(test, lambda: fake_engine.served(fails_at=2))
