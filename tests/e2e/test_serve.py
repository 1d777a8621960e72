"""A trained run served by the real command, asked by OpenAI's own client."""

import math
import re
import signal

import http_server
import numpy as np
import openai
import pytest
import tiny_run
from served_command import served
from tiny_job import Job

from palmscale.run.load import load

MODEL = "tiny"


@pytest.fixture(scope="module")
def command(finished):
    with served(f"--workdir={finished}", "--port=0", f"--model_name={MODEL}") as command:
        yield command
        code, said = command.end()
        assert code == 0 and "Traceback" not in said, said


@pytest.fixture(scope="module")
def complete(command):
    client = command.client()
    return lambda **fields: client.completions.create(**{"model": MODEL, "prompt": "def "} | fields)


@pytest.fixture(scope="module")
def trained(finished):
    return load(finished)


def text(answer, index=0):
    return answer.choices[index].text


def test_greedy_text_is_that_of_generate(complete, trained):
    written = trained.generate("def ", max_tokens=12, temperature=0)
    assert text(complete(max_tokens=12, temperature=0, user="me")) == written
    pieces = complete(max_tokens=12, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == written


def test_the_log_probabilities_of_a_prompt_are_those_of_score(complete, trained):
    prompt = "naïve def"
    (score,) = trained.score([prompt])
    answer = complete(prompt=prompt, max_tokens=0, echo=True, logprobs=1)
    told = answer.choices[0].logprobs.token_logprobs
    assert text(answer) == prompt and len(told) == len(prompt.encode())
    bits = -sum(told) / math.log(2) / len(prompt.encode())
    assert bits == pytest.approx(score.bits_per_byte, abs=1e-4)
    ids = trained.vocabulary.encode(prompt).tolist()
    for own in ([0, *ids], ids):  # with bos, and without
        answer = complete(prompt=own, max_tokens=1, echo=True, logprobs=1, temperature=0)
        values = answer.choices[0].logprobs.token_logprobs
        assert values[0] is None or len(own) == len(ids)
        assert values[-len(ids) - 1 : -1] == pytest.approx(told, abs=1e-4)


def test_a_seed_repeats_alone_and_among_others(complete):
    drawn = {"temperature": 1.5, "max_tokens": 12, "seed": 7}
    alone = text(complete(**drawn))
    several = complete(prompt=["x", "def ", "y"], **drawn)
    assert text(several, 1) == alone != text(complete(**drawn | {"seed": 8}))
    samples = complete(n=3, **drawn)
    assert text(samples) == alone and len({choice.text for choice in samples.choices}) == 3


def test_every_field_of_sampling_does_what_it_says(complete):
    greedy = complete(temperature=0, max_tokens=8, logprobs=5)
    first = greedy.choices[0].logprobs.tokens[0]
    hot = {"temperature": 2.0, "max_tokens": 8, "seed": 3}
    for fields in ({"extra_body": {"top_k": 1}}, {"top_p": 1e-6}, {"extra_body": {"min_p": 1.0}}):
        assert text(complete(**hot | fields)) == text(greedy), fields
    token_id = ord(first) + 3 if len(first) == 1 else int(first[3:5], 16) + 3
    banned = complete(temperature=0, max_tokens=8, logprobs=0, logit_bias={str(token_id): -100})
    assert first not in banned.choices[0].logprobs.tokens
    for name, strong, weak in (
        ("frequency_penalty", 2.0, -2.0),
        ("presence_penalty", 2.0, -2.0),
        ("repetition_penalty", 3.0, 0.3),
    ):
        answers = [
            complete(max_tokens=60, seed=3, logprobs=0, extra_body={name: value})
            for value in (strong, weak)
        ]
        count = [len(set(answer.choices[0].logprobs.tokens)) for answer in answers]
        assert count[0] > count[1], name


def test_the_end_of_the_document_ends_the_text_unless_it_is_ignored(complete):
    always_end = {"max_tokens": 9, "logit_bias": {"1": 100}, "temperature": 0}
    answer = complete(**always_end)
    assert text(answer) == "" and answer.choices[0].finish_reason == "stop"
    answer = complete(**always_end, extra_body={"min_tokens": 4})
    assert answer.usage.completion_tokens == 5
    answer = complete(**always_end, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 9 and answer.choices[0].finish_reason == "length"


def test_a_stop_string_is_never_returned(complete):
    whole = text(complete(max_tokens=30, temperature=0, logit_bias={str(ord("a") + 3): 12}))
    stop = whole[4:6]
    answer = complete(
        max_tokens=30, temperature=0, logit_bias={str(ord("a") + 3): 12}, stop=[stop, "zzz"]
    )
    assert text(answer) == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_usage_tells_what_was_reused(complete):
    prompt = "def a_function_of_its_own(x):"
    complete(prompt=prompt, max_tokens=2)
    usage = complete(prompt=f"{prompt} pass", max_tokens=2).usage
    assert usage.prompt_tokens == len(prompt) + 5
    assert usage.prompt_tokens_details.cached_tokens >= len(prompt)


def test_json_that_fits_a_schema(complete):
    import json

    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    schema["additionalProperties"] = False
    shaped = {"type": "json_schema", "json_schema": {"schema": schema}}
    for fields in ({"response_format": shaped}, {"guided_json": schema}):
        answer = complete(max_tokens=40, seed=1, extra_body=fields)
        assert type(json.loads(text(answer))["a"]) is bool, fields
    answer = complete(max_tokens=40, seed=1, extra_body={"guided_regex": "(yes|no)!"})
    assert text(answer) in ("yes!", "no!")
    with pytest.raises(openai.BadRequestError) as raised:
        complete(extra_body={"guided_regex": "("})
    assert raised.value.param == "guided_regex"


def test_clients_that_leave_hold_no_slot(command, complete):
    for _ in range(6):
        stream = complete(max_tokens=120, stream=True)
        next(iter(stream))
        stream.close()
    running = http_server.Asking(command.port)
    http_server.eventually(lambda: "palmscale_running_sequences 0.0" in running.get("/metrics")[1])
    assert np.isfinite(complete(max_tokens=1, logprobs=0).choices[0].logprobs.token_logprobs[0])


def test_a_killed_server_starts_again_at_its_port_and_sigterm_finishes_its_streams(finished):
    with served(f"--workdir={finished}", "--port=0") as killed:
        killed.end(signal.SIGKILL)
    with served(f"--workdir={finished}", f"--port={killed.port}") as command:
        assert command.port == killed.port
        wanted = {"max_tokens": 120, "stream": True, "extra_body": {"ignore_eos": True}}
        stream = iter(command.client().completions.create(model="run", prompt="a", **wanted))
        next(stream)
        command.process.send_signal(signal.SIGTERM)
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"
        code, said = command.end()
    assert code == 0 and "Traceback" not in said, said


def test_a_users_mistake_is_one_line(tmp_path, finished):
    flags = {
        "there is no run in": [f"--workdir={tmp_path}"],
        "cannot listen": [f"--workdir={finished}", "--host=256.1.1.1"],
        "is empty": [f"--workdir={finished}", f"--api_key_file={tmp_path / 'key'}"],
    }
    (tmp_path / "key").write_text("\n")
    commands = [["serve", "--port=0", *each] for each in flags.values()]
    answers = tiny_run.run_each(commands)
    for said, answer in zip(flags, answers, strict=True):
        assert answer.returncode == 2 and said in answer.stderr, answer
        assert len(answer.stderr.splitlines()) == 1, answer


def test_two_processes_serve_what_one_does(finished, complete, tmp_path):
    fields = [
        {"prompt": ["def ", "x = "], "max_tokens": 12, "temperature": 0},
        {"prompt": "def ", "max_tokens": 12, "n": 2, "seed": 5, "logprobs": 2, "echo": True},
        {"prompt": "a", "max_tokens": 12, "seed": 5, "extra_body": {"guided_regex": "(yes|no)+"}},
    ]
    flags = ["--slots=4", "--context_length=128", "--port=0", f"--model_name={MODEL}"]
    with Job(["serve", f"--workdir={finished}", *flags], tmp_path / "logs", processes=2) as job:
        served_at = re.compile(r"Serving \S+ at (\S+):")
        job.when(lambda: served_at.search(job.said(0)))
        url = served_at.search(job.said(0))[1]
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300) as client:
            answers = [client.completions.create(model=MODEL, **each) for each in fields]
            stream = iter(
                client.completions.create(model=MODEL, prompt="a", max_tokens=100, stream=True)
            )
            next(stream)
            for index in range(2):  # as a scheduler does
                job.send(index, signal.SIGTERM)
            assert [chunk.choices[0].finish_reason for chunk in stream][-1] is not None
        job.succeed()
    for each, answer in zip(fields, answers, strict=True):
        alone = complete(**each)
        assert [choice.text for choice in answer.choices] == [c.text for c in alone.choices]
        assert answer.usage.completion_tokens == alone.usage.completion_tokens
