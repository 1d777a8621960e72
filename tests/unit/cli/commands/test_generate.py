import io

import pytest

from palmscale.cli import main
from palmscale.cli.commands import generate
from palmscale.cli.parser import parse
from palmscale.errors import UserError

GENERATE = ["generate", "--workdir=runs/x"]


def request_of(*flags):
    return generate._request(parse(main.parser(), [*GENERATE, *flags]))


def test_flags_are_the_fields_of_a_request():
    request = request_of(
        *("--prompt=x", "--max_tokens=3", "--min_p=0.1", "--stop=a", "--stop=\n", "--seed=-1"),
        *("--logit_bias=7:-100", "--logit_bias=8:2.5", "--ignore_eos", "--top_logprobs=2"),
    )
    assert (request.prompt, request.max_tokens, request.min_p, request.seed) == ("x", 3, 0.1, -1)
    assert request.stop == ["a", "\n"] and request.logit_bias == {7: -100.0, 8: 2.5}
    assert request.ignore_eos and request.top_logprobs == 2


def test_what_no_flag_gives_is_the_requests_default():
    assert request_of() == generate._request(parse(main.parser(), [*GENERATE, "--prompt="]))
    assert request_of().temperature == 0.8 and request_of("--greedy").temperature == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--logit_bias=x"], "x is not ID:X"),
        (["--prompt=x", "--jsonl=y"], "not allowed with"),
        (["--out=y"], "--out needs --jsonl"),
        (["--top_logprobs=2"], "--top_logprobs needs --jsonl"),
        (["--reuse_prefixes"], "--reuse_prefixes needs --jsonl"),
        (["--beams=2", "--num_samples=2"], "--beams continues one prompt"),
        (["--beams=2", "--interactive"], "--beams continues one prompt"),
        (["--interactive", "--num_samples=2"], "--interactive writes one sample"),
    ],
    ids=str,
)
def test_flags_that_do_not_go_together_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        generate._refuse_unused(parse(main.parser(), [*GENERATE, *flags]))


def test_prompts_are_typed_without_a_terminal_too(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a \nb"))
    assert [generate._typed(), generate._typed()] == ["a ", "b"]
    with pytest.raises(EOFError):
        generate._typed()


def test_a_schema_is_read_from_a_file(tmp_path):
    (tmp_path / "schema").write_text('{"type": "integer"}')
    assert request_of(f"--json_schema={tmp_path / 'schema'}").json_schema == {"type": "integer"}
    (tmp_path / "list").write_text("[]")
    for name in ("no", "list"):
        with pytest.raises(UserError, match=f"{name} holds no JSON schema"):
            request_of(f"--json_schema={tmp_path / name}")
