import hashlib
import json
import re

import pytest

from palmscale.data.sources import TRAIN, VALIDATION, Corpus, documents, find_files, fingerprint
from palmscale.errors import UserError


def write(directory, **files):
    for name, content in files.items():
        path = directory / name.replace("__", "/")
        path = path.with_name(path.name.replace("_", "."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def names(corpus, split):
    return [name for name, _ in documents(corpus, split)]


def refusal(corpus):
    with pytest.raises(UserError) as caught:
        list(documents(corpus, TRAIN))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def texts(tmp_path):
    write(tmp_path, **{f"text{i}_txt": f"text {i}\r\n" * 10 for i in range(20)})
    return Corpus(text_files=str(tmp_path / "*.txt"), held_out_fraction=0.2)


def test_splits_share_no_file_and_lose_none(texts):
    train, held = names(texts, TRAIN), names(texts, VALIDATION)
    assert sorted(train + held) == sorted(f"text{i}.txt" for i in range(20))
    assert len(held) == 4


def test_the_held_out_files_depend_on_names_alone(texts, tmp_path):
    by_hash = sorted(
        (f"text{i}.txt" for i in range(20)), key=lambda n: hashlib.sha256(n.encode()).digest()
    )
    assert names(texts, VALIDATION) == sorted(by_hash[:4])


def test_text_comes_byte_for_byte(texts, tmp_path):
    assert dict(documents(texts, TRAIN))["text0.txt"] == "text 0\r\n" * 10


def test_two_units_hold_out_one_and_a_lone_unit_none(tmp_path):
    write(tmp_path, a_txt="short", b_txt="long " * 1000)
    both, alone = (
        Corpus(text_files=str(tmp_path / "*.txt")),
        Corpus(text_files=str(tmp_path / "a.txt")),
    )
    assert len(names(both, TRAIN)) == len(names(both, VALIDATION)) == 1
    assert names(alone, TRAIN) == ["a.txt"] and names(alone, VALIDATION) == []
    none = Corpus(text_files=str(tmp_path / "*.txt"), held_out_fraction=0)
    assert len(names(none, TRAIN)) == 2


def test_source_directories_hold_out_whole_packages(tmp_path):
    files = {f"lib__p{i}__m{j}_py": f"x = {i * j}\n" * 9 for i in range(8) for j in range(3)}
    write(
        tmp_path,
        **files,
        lib__single_py="y = 1\n",
        lib__p0__notes_md="no",
        lib__p0__tests__t_py="no",
    )
    corpus = Corpus(source_directories=str(tmp_path / "lib"), held_out_fraction=0.3)
    train, held = ({n.split("/")[0] for n in names(corpus, s)} for s in (TRAIN, VALIDATION))
    assert held and not train & held and train | held == {*(f"p{i}" for i in range(8)), "single.py"}
    assert len(names(corpus, TRAIN) + names(corpus, VALIDATION)) == 25


def test_equal_names_in_two_directories_stay_apart(tmp_path):
    write(tmp_path, a__src__m_py="a = 1\n", b__src__m_py="b = 1\n")
    corpus = Corpus(source_directories=(str(tmp_path / "a/src"), str(tmp_path / "b/src")))
    assert [file.name for file in find_files(corpus)] == ["a/src/m.py", "b/src/m.py"]


def test_the_default_is_the_standard_library_without_its_tests():
    files = find_files(Corpus())
    assert {"argparse.py", "json/decoder.py"} <= {file.name for file in files}
    assert not any(
        re.search(r"(^|/)(tests?|site-packages|__pycache__)/", file.name) for file in files
    )
    assert {file.unit for file in files if file.name.startswith("json/")} == {"json"}


def test_jsonl_holds_out_documents_of_one_file_and_files_of_several(tmp_path):
    lines = "".join(json.dumps({"text": f"line {i}", "meta": 1}) + "\n" for i in range(40))
    write(tmp_path, a_jsonl=lines)
    one = Corpus(jsonl_files=str(tmp_path / "*.jsonl"), held_out_fraction=0.1)
    train, held = names(one, TRAIN), names(one, VALIDATION)
    assert len(held) == 4 and len(train) == 36 and not set(train) & set(held)
    assert dict(documents(one, TRAIN))[train[0]] == f"line {int(train[0].split(':')[1]) - 1}"
    write(tmp_path, b_jsonl=lines)
    assert len({name.split(":")[0] for name in names(one, VALIDATION)}) == 1
    assert len(names(one, TRAIN)) == len(names(one, VALIDATION)) == 40


def test_fingerprint_is_of_names_and_content(texts, tmp_path):
    before = fingerprint(texts)
    assert before[0]["sha256"] == hashlib.sha256(b"text 0\r\n" * 10).hexdigest()
    (tmp_path / "text3.txt").write_text("changed")
    changed = [a["name"] for a, b in zip(before, fingerprint(texts)) if a != b]
    assert changed == ["text3.txt"]


def test_two_corpora_at_once_are_refused_by_macro_name():
    with pytest.raises(
        UserError, match="TEXT_FILES and MIXTURE_OR_TASK .*JSONL_FILES, SOURCE_DIRECTORIES"
    ):
        Corpus(text_files="a", mixture_or_task="b")


@pytest.mark.parametrize("fraction", [-0.1, 1, 5])
def test_a_wrong_held_out_fraction_is_refused(fraction):
    with pytest.raises(UserError, match=f"HELD_OUT_FRACTION={fraction}"):
        Corpus(held_out_fraction=fraction)


def test_a_pattern_without_files_names_itself_and_the_directory(tmp_path):
    message = refusal(Corpus(text_files=str(tmp_path / "my" / "*.txt")))
    assert "TEXT_FILES=" in message and "/my/*.txt" in message and f" in {tmp_path}/my" in message


def test_a_missing_directory_and_one_without_sources_are_named(tmp_path):
    assert "/none" in refusal(Corpus(source_directories=str(tmp_path / "none")))
    assert ".py" in refusal(Corpus(source_directories=str(tmp_path)))


def test_an_empty_corpus_is_refused(tmp_path):
    write(tmp_path, a_txt="", b_txt="")
    assert "empty" in refusal(Corpus(text_files=str(tmp_path / "*.txt")))


def test_bytes_that_are_not_utf8_are_named_with_their_offset(tmp_path):
    write(tmp_path, a_txt=b"good \xff bad")
    assert re.search(
        r"a\.txt: byte 5 is not UTF-8", refusal(Corpus(text_files=str(tmp_path / "a.txt")))
    )


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'{"text": "\xff"}', "byte 10 of the line is not UTF-8"),
        (b'{"text": ', "not JSON"),
        (b'{"body": "x"}', 'no string under the key "text"'),
        (b'{"text": 3}', 'no string under the key "text"'),
        (b'["text"]', 'no string under the key "text"'),
        (b'{"text": "\\ud800"}', "surrogate"),
    ],
)
def test_a_wrong_jsonl_line_is_named(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    message = refusal(Corpus(jsonl_files=str(tmp_path / "a.jsonl"), held_out_fraction=0))
    assert "a.jsonl:3: " in message and reason in message
