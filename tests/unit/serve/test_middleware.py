"""What surrounds every request: the key that it needs, and the line that it leaves in the log."""

import fake_engine
import pytest
from http_server import eventually, serving

from palmscale.serve.app import Access


@pytest.fixture(scope="module")
def locked():
    with serving(fake_engine.served, access=Access(api_key="sésame")) as running:
        yield running


KEY = {"Authorization": "Bearer sésame".encode()}


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "},
        {"Authorization": b"Basic s\xc3\xa9same"}, {"Authorization": "Bearer sesame"},
        {"Authorization": b"Bearer s\xc3\xa9same2"}, {"Authorization": "Bearer"},
    ],
)  # fmt: skip
def test_without_the_key_nothing_is_answered(locked, headers):
    for method, path in (
        ("POST", "/v1/completions"), ("GET", "/v1/models"), ("POST", "/tokenize"),
        ("GET", "/metrics"), ("GET", "/nowhere"), ("POST", "/v1/chat/completions"),
    ):  # fmt: skip
        status, answered, answer = locked.request(method, path, b"{}", headers)
        assert status == 401 and answered["www-authenticate"] == "Bearer"
        assert answer["error"]["code"] == "invalid_api_key"


def test_the_key_opens_and_the_page_and_the_health_check_need_none(locked):
    assert locked.get("/health")[0] == locked.get("/")[0] == 200
    assert locked.get("/v1/models", **KEY)[0] == 200
    assert locked.post("/v1/completions", {"prompt": "a"}, **KEY)[0] == 200


def test_a_line_a_request_without_the_text_of_prompts():
    with serving(fake_engine.served) as running:
        running.complete(prompt="a secret", max_tokens=5)
        running.get("/metrics")
        running.get("/no\x1b[31mwhere".replace("\x1b", "%1b"))
        eventually(lambda: len(running.said) == 3)
        lines = running.said[1:]
    assert len(lines) == 2, lines  # neither of /metrics nor of /health
    assert lines[0].startswith("POST /v1/completions 200 ") and "5 drawn" in lines[0]
    assert "8 prompt tokens" in lines[0] and "length" in lines[0] and "secret" not in lines[0]


def test_a_refused_field_is_in_the_log_and_its_value_is_not():
    with serving(fake_engine.served) as running:
        running.post("/v1/completions", {"prompt": "a", "stop": ["secret", 5]})
        running.post("/v1/completions", b"{secret")
        eventually(lambda: len(running.said) == 3)
        assert running.said[1].endswith(" refused: stop")
        assert running.said[2].endswith(" refused: the body")


def test_prompts_are_logged_where_that_is_asked_for():
    with serving(fake_engine.served, access=Access(log_prompts=True)) as running:
        running.complete(prompt="a secret", max_tokens=5)
        eventually(lambda: "a secret" in running.said[-1])


def test_unknown_paths_are_counted_as_one():
    with serving(fake_engine.served) as running:
        for number in range(5):
            assert running.get(f"/nowhere/{number}")[0] == 404
        line = 'palmscale_requests_total{path="other",status="404"} 5.0'
        eventually(lambda: line in running.get("/metrics")[1])
