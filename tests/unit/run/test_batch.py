"""Each line is answered once, and alike whatever is beside it or was answered before."""

import json

import board
import pytest

import palmscale
from palmscale.cluster.jointly import ALONE
from palmscale.errors import UserError
from palmscale.infer.continuation import TextRequest
from palmscale.run.batch import (
    PromptLine,
    TextLine,
    answer_lines,
    generate_lines,
    request_of,
    score_lines,
)
from palmscale.run.json_lines import Line, read_lines

DEFAULTS = TextRequest(max_tokens=6, temperature=1.0)
PROMPTS = [{"id": f"p{n}", "prompt": "def " + "ab" * n} for n in range(7)]


@pytest.fixture
def load(result, workdir):
    return lambda: palmscale.load(workdir)


def lines(told, form=PromptLine):
    return read_lines("\n".join(map(json.dumps, told)), "in.jsonl", form)


def answers(load, told, done=frozenset(), **settings):
    settings = {"defaults": DEFAULTS, "slots": 4} | settings
    return {
        (answer["id"], answer.get("sample", 0)): answer
        for answer in generate_lines(load, lines(told), done, **settings)
    }


def test_an_answer_does_not_depend_on_what_is_done_or_in_which_order(load):
    whole = answers(load, PROMPTS)
    assert len({answer["text"] for answer in whole.values()}) == 7
    done = [("p0", 0), ("p3", 0)]
    rest = answers(load, PROMPTS[::-1], done)
    assert rest == {key: answer for key, answer in whole.items() if key not in done}


def test_an_answer_has_what_its_line_asks_for(load):
    told = [
        {"prompt": "x", "max_tokens": 3, "temperature": 0, "top_logprobs": 2},
        {"prompt": "x", "max_tokens": 5, "temperature": 0, "top_logprobs": 0, "ignore_eos": True},
        {"prompt": "x", "seed": 3, "logit_bias": {"70": 100}, "stop": "CC"},
    ]
    first, second, third = (answers(load, told)[n, 0] for n in range(3))
    assert len(first["tokens"]) == len(first["top_logprobs"]) == 3
    assert first["top_logprobs"][0][0] == [first["tokens"][0], first["logprobs"][0]]
    assert len(second["logprobs"]) == 5 and "top_logprobs" not in second
    assert second["finish_reason"] == "length" and "logprobs" not in third
    assert third["text"] == "" and third["finish_reason"] == "stop" and len(third["tokens"]) == 2


def test_samples_are_numbered_and_the_first_is_that_of_a_single_one(load):
    single, several = answers(load, PROMPTS[:2]), answers(load, PROMPTS[:2], num_samples=3)
    assert list(sorted(several)) == [(f"p{n}", sample) for n in range(2) for sample in range(3)]
    assert all(several[key]["text"] == answer["text"] for key, answer in single.items())
    rest = answers(load, PROMPTS[:2], [("p0", 1), ("p1", 0)], num_samples=3)
    assert rest.items() <= several.items() and len(rest) == 4


def test_the_seed_follows_from_the_id_alone():
    asked = [
        request_of(Line("here", line_id, {"prompt": prompt}), DEFAULTS)
        for line_id, prompt in [("a", "x"), ("a", "y"), ("b", "x"), (1, "x"), ("1", "x")]
    ]
    assert asked[0].seed == asked[1].seed and len({request.seed for request in asked}) == 4
    own = Line("here", "a", {"prompt": "x", "seed": 5})
    assert request_of(own, DEFAULTS).seed == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1}, "in.jsonl line 2: temperature=-1"),
        ({"logit_bias": {"x": 1}}, "in.jsonl line 2: logit_bias names 'x'; expected a token id"),
        ({"logit_bias": {"999": 1}}, "in.jsonl line 2: logit_bias has the token id 999"),
        ({"stop": ""}, "in.jsonl line 2: stop has an empty string"),
        ({"top_p": "0.9"}, "in.jsonl line 2: top_p is '0.9'; expected float or None"),
        ({"max_token": 3}, 'in.jsonl line 2: unknown field "max_token"; did you mean max_tokens'),
    ],
    ids=str,
)
def test_a_wrong_line_is_named_before_anything_is_written(load, fields, message):
    with pytest.raises(UserError, match=message):
        next(generate_lines(load, lines([PROMPTS[0], {"prompt": "x"} | fields])))


def test_what_is_all_done_loads_no_model():
    assert list(generate_lines(lambda: 1 / 0, lines(PROMPTS[:1]), [("p0", 0)])) == []
    assert list(score_lines(lambda: 1 / 0, lines([{"text": ""}], TextLine), [(0, 0)])) == []


def test_scores_are_those_of_the_loaded_model(load):
    texts = ["def a(x):\n", "ü" * 40, ""]
    found = list(score_lines(load, lines([{"text": text} for text in texts], TextLine)))
    for answer, score in zip(found, load().score(texts, context_length=32), strict=True):
        assert answer["tokens"] == score.token_ids.tolist()
        assert answer["logprobs"] == pytest.approx(score.log_probabilities.tolist(), abs=1e-5)
        assert answer["logprob"] == pytest.approx(score.log_probability, abs=1e-5)
    assert found[0]["bits_per_byte"] > 0 and found[2]["bits_per_byte"] is None
    (short,) = score_lines(load, lines([{"text": texts[1]}], TextLine), context_length=8)
    assert short["logprob"] != found[1]["logprob"]


def answered(peers, tmp_path, answer, out="out.jsonl"):
    written = []
    answer_lines(
        peers,
        read=lambda: '{"id": "a", "text": ""}\n{"id": "b", "text": ""}\n',
        source=str(tmp_path / "in.jsonl"),
        form=TextLine,
        out=out and str(tmp_path / out),
        write=written.append,
        answer=answer,
    )
    return written


def echo(lines, done):
    yield from ({"id": line.id} for line in lines if (line.id, 0) not in done)


def test_the_answers_of_a_killed_job_stay(tmp_path):
    (tmp_path / "out.jsonl").write_text('{"id": "b", "text": "first"}\n{"id": "a", "te')
    answered(ALONE, tmp_path, echo)
    assert (tmp_path / "out.jsonl").read_text() == '{"id": "b", "text": "first"}\n{"id": "a"}\n'


def test_an_error_loses_no_answer(tmp_path):
    def half(lines, done):
        yield {"id": "a"}
        raise UserError("wrong")

    with pytest.raises(UserError, match="wrong"):
        answered(ALONE, tmp_path, half)
    answered(ALONE, tmp_path, echo)
    assert (tmp_path / "out.jsonl").read_text() == '{"id": "a"}\n{"id": "b"}\n'


def test_without_a_file_the_answers_are_written_at_once(tmp_path):
    assert answered(ALONE, tmp_path, echo, out=None) == ['{"id": "a"}\n', '{"id": "b"}\n']


def test_only_process_0_reads_and_writes_and_all_do_the_same(tmp_path):
    import concurrent.futures

    (tmp_path / "out.jsonl").write_text('{"id": "b"}\n')
    seen = []

    def answer(lines, done):
        seen.append(([line.id for line in lines], done))
        return echo(lines, done)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda peers: answered(peers, tmp_path, answer), board.peers(2)))
    assert seen == [(["a", "b"], {("b", 0)})] * 2
    assert (tmp_path / "out.jsonl").read_text() == '{"id": "b"}\n{"id": "a"}\n'


def test_the_answers_do_not_replace_the_lines(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"id": "a", "text": ""}')
    with pytest.raises(UserError, match="holds the lines themselves"):
        answered(ALONE, tmp_path, echo, out="in.jsonl")
    assert (tmp_path / "in.jsonl").read_text() == '{"id": "a", "text": ""}'
