"""Lines that anyone may have written are read or named; answers outlive the process."""

import json
from typing import TypedDict

import pytest

from palmscale.errors import UserError
from palmscale.run.json_lines import Answers, as_line, named, read_lines


class Form(TypedDict, total=False):
    text: str
    count: int


def read(text):
    return [(line.id, line.fields) for line in read_lines(text, "a.jsonl", Form)]


def test_a_line_has_its_own_id_or_its_number():
    lines = '\ufeff{"text": "a"}\n\n{"id": "b"}\r\n{"id": 7, "count": 2}'
    assert read(lines) == [(0, {"text": "a"}), ("b", {}), (7, {"count": 2})]


def test_only_a_newline_ends_a_line():
    assert read('{"text": "a\u2028b\x85c"}\n') == [(0, {"text": "a\u2028b\x85c"})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "a.jsonl line 2 is not JSON: "),
        ("[1]", r"a.jsonl line 2 is \[1\]; expected a JSON object"),
        ("[" * 100_000, "a.jsonl line 2 "),
        ('{"count": NaN}', "a.jsonl line 2 is not JSON: NaN is not a number"),
        ('{"count": 1.5}', "a.jsonl line 2: count is 1.5; expected int"),
        ('{"count": true}', "a.jsonl line 2: count is True; expected int"),
        ('{"txt": ""}', 'a.jsonl line 2: unknown field "txt"; did you mean text'),
        ('{"id": 1.5}', "a.jsonl line 2: id is 1.5; expected a string or an integer"),
        ('{"id": true}', "a.jsonl line 2: id is true"),
        ('{"id": 0}', "a.jsonl line 2: id 0 is that of a.jsonl line 1"),
        (r'{"text": "\ud800"}', "a.jsonl line 2 is not JSON: "),
    ],
    ids=lambda text: text[:20],
)
def test_a_wrong_line_is_named(line, message):
    with pytest.raises(UserError, match=message):
        read('{"text": "a"}\n' + line)


def test_an_error_says_which_line_it_is_about():
    (line,) = read_lines("{}", "a.jsonl", Form)
    with pytest.raises(UserError, match=r"^a\.jsonl line 1: count=3 is odd\."), named(line):
        raise UserError("count=3 is odd.")


def test_answers_follow_those_that_are_there(tmp_path):
    path = tmp_path / "out.jsonl"
    for number in range(3):
        answers = Answers(path)
        assert [told["id"] for told in answers.written] == list(range(number))
        answers.write({"id": number, "text": "ü\u2028\n"})
        answers.close()
    assert path.read_text().count("\n") == 3


@pytest.mark.parametrize("rest", [b'{"id": 1, "te', b'{"id": 1}', b"\0\0\0", "{'ü".encode()[:-1]])
def test_an_incomplete_last_line_is_dropped(tmp_path, rest):
    path = tmp_path / "out.jsonl"
    whole = as_line({"id": 0})
    path.write_bytes(whole.encode() + rest)
    answers = Answers(path)
    assert [told["id"] for told in answers.written] == [0]
    answers.write({"id": 2})
    answers.close()
    assert path.read_text() == whole + as_line({"id": 2})


@pytest.mark.parametrize("line", ["notes", '{"text": "a"}', "[]", ""])
def test_a_file_of_something_else_is_left_as_it_is(tmp_path, line):
    path = tmp_path / "out.jsonl"
    path.write_text(f'{{"id": 0}}\n{line}\nrest')
    with pytest.raises(UserError, match="out.jsonl line 2 is no answer with an id"):
        Answers(path)
    assert path.read_text() == f'{{"id": 0}}\n{line}\nrest'


def test_two_processes_do_not_write_one_file(tmp_path):
    first = Answers(tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="another process writes"):
        Answers(tmp_path / "out.jsonl")
    first.close()
    Answers(tmp_path / "out.jsonl").close()


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot write .*No such file"):
        Answers(tmp_path / "no" / "out.jsonl")


def test_an_answer_is_one_line():
    line = as_line({"id": "a\nb", "text": "\r\n\0"})
    assert line.count("\n") == 1 and json.loads(line)["text"] == "\r\n\0"
