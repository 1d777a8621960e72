"""`/tokenize`, `/detokenize` and `/tokenizer_info`, as evaluation harnesses ask for them."""

import fake_engine
import pytest
from http_server import serving


@pytest.fixture(scope="module")
def running():
    with serving(fake_engine.served) as running:
        yield running


@pytest.mark.parametrize("text", ["", "naïve → text", " a ", "x</s>"])
def test_a_text_becomes_ids_without_bos_and_back(running, text):
    body = {"prompt": text, "add_special_tokens": True}
    status, answer = running.post("/tokenize", body)
    assert status == 200 and answer["tokens"] == fake_engine.VOCABULARY.encode(text).tolist()
    assert answer["count"] == len(answer["tokens"])
    assert running.post("/detokenize", {"tokens": answer["tokens"]}) == (200, {"prompt": text})


def test_the_end_of_a_document_has_a_text_that_gives_its_id(running):
    info = running.get("/tokenizer_info")[1]
    for name, token_id in (("eos_token", 1), ("bos_token", 0)):
        assert running.post("/tokenize", {"prompt": info[name]})[1]["tokens"] == [token_id]


def test_wrong_bodies_name_their_field(running):
    for path, body, param in (
        ("/tokenize", {"prompt": 5}, "prompt"), ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "x"}, "model"),
        ("/detokenize", {"tokens": [999]}, "tokens"), ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
    ):  # fmt: skip
        status, answer = running.post(path, body)
        assert status in (400, 404) and answer["error"]["param"] == param
