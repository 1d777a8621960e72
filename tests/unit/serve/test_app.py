"""The routes of the server."""

import re

import fake_engine
import openai
import pytest
from http_server import serving
from prometheus_client.parser import text_string_to_metric_families

from palmscale.serve.app import Access


@pytest.fixture(scope="module")
def running():
    with serving(lambda: fake_engine.served(slots=8)) as running:
        yield running


@pytest.fixture(scope="module")
def client(running):
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_openai_client_lists_the_model(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "palmscale"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_chat_is_answered_with_what_a_base_model_is(client):
    with pytest.raises(openai.NotFoundError, match="tiny is a base model"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}])


def test_errors_are_those_of_the_openai_client(client):
    for fields, kind, param in (
        ({"model": "other"}, openai.NotFoundError, "model"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "temprature"),
    ):
        with pytest.raises(kind) as raised:
            client.completions.create(**{"model": "tiny", "prompt": "a"} | fields)
        assert raised.value.param == param


def test_unknown_paths_and_methods_are_refused_in_the_same_shape(running):
    for method, path, status in (
        ("GET", "/nowhere", 404), ("GET", "/v1/completions", 405), ("POST", "/health", 405),
        ("DELETE", "/v1/models/tiny", 405),
    ):  # fmt: skip
        found, _, answer = running.request(method, path)
        assert found == status and answer["error"]["type"] == "invalid_request_error"


def test_metrics_are_read_by_prometheus(running):
    running.complete(prompt="abc", max_tokens=5)
    families = {
        family.name: family for family in text_string_to_metric_families(running.get("/metrics")[1])
    }
    value = {
        sample.name: sample.value
        for family in families.values()
        for sample in family.samples
        if not sample.labels
    }
    assert value["palmscale_slots"] == 8 and value["palmscale_running_sequences"] == 0
    assert value["palmscale_prompt_tokens_total"] >= 3
    assert value["palmscale_generated_tokens_total"] >= 5
    assert value["palmscale_time_to_first_token_seconds_count"] >= 1


def test_the_page_needs_nothing_from_elsewhere(running):
    status, headers, page = running.request("GET", "/")
    assert status == 200 and headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not re.findall(r"https?://|//cdn|@import|url\(", page)


def test_pages_of_other_origins_are_let_in_only_when_asked():
    origin = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    asks = origin | {"Access-Control-Request-Headers": "authorization,content-type"}
    access = Access(cors_origins=("https://a.example",), api_key="k")
    with serving(fake_engine.served, access=access) as running:
        status, headers, _ = running.request("OPTIONS", "/v1/completions", headers=asks)
        assert status == 200 and headers["access-control-allow-origin"] == "https://a.example"
        other = asks | {"Origin": "https://b.example"}
        status, headers, _ = running.request("OPTIONS", "/v1/completions", headers=other)
        assert "access-control-allow-origin" not in headers
    with serving(fake_engine.served) as running:
        status, headers, _ = running.request("OPTIONS", "/v1/completions", headers=asks)
        assert status == 405 and "access-control-allow-origin" not in headers
