"""The benchmark of the server: its clients see every token, and its table has every figure."""

import asyncio
import sys
from pathlib import Path

import fake_engine
import pytest
from http_server import serving

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import page  # noqa: E402
import serve  # noqa: E402


@pytest.fixture(scope="module")
def running():
    def load():
        return fake_engine.served(slots=8, num_tokens=serve.VOCABULARY)

    with serving(load) as running:
        yield running


def test_a_client_sees_every_token_and_what_went_wrong(running):
    answer = asyncio.run(serve._ask(running.port, 0))
    assert answer.error is None and answer.tokens == len(answer.at) == serve.MAX_TOKENS
    assert answer.first_seconds > 0 and len(answer.gaps) == serve.MAX_TOKENS - 1
    too_long = asyncio.run(serve._ask(running.port, 0, prompt_tokens=5000))
    assert "400" in too_long.error


def test_every_figure_is_in_the_table(running, monkeypatch):
    monkeypatch.setattr(serve, "CLIENTS", 4)
    result = asyncio.run(serve._measured(running.port, 1, 0.5))
    assert result["errors"] == [] and result["slots_held"] == 0 and result["requests"] > 4
    table = page.serve(page.circumstances() | {"size": "tiny", "slots": 8} | result)
    assert "4 clients" in table and "95th percentile" in table
