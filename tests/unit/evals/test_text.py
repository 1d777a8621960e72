"""Perplexity of given files: those of `score`, by file and together."""

import dataclasses
import gzip
import math

import pytest

from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import UserError
from palmscale.evals.text import TextEvaluation
from palmscale.infer.score import score
from palmscale.infer.text import encode_prompt


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("naïve → text, longer than a window of 24 tokens\n")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("def f(x):")
    (tmp_path / "empty.txt").write_text("")
    return tmp_path


def test_files_are_scored_in_windows_by_file_and_together(candidate, folder):
    found = TextEvaluation(files=f"{folder}/*")(dataclasses.replace(candidate, context_length=24))
    texts = {"a.txt": (folder / "a.txt").read_text(), "b.txt.gz": "def f(x):"}
    nats, tokens, sizes = 0.0, 0, 0
    for name, text in texts.items():
        row = encode_prompt(ByteVocabulary(), text)
        said = score(
            model=candidate.model,
            params=candidate.variables["params"],
            row=row,
            text_bytes=len(text.encode()),
            context_length=24,
        )
        (key,) = [k for k in found if k.startswith("eval/text/loss/") and k.endswith(name)]
        suffix = key.removeprefix("eval/text/loss")
        assert found[f"eval/text/bits_per_byte{suffix}"] == pytest.approx(said.bits_per_byte)
        nats -= said.log_probability
        tokens += len(row) - 1
        sizes += len(text.encode())
    assert found["eval/text/loss"] == pytest.approx(nats / tokens)
    assert found["eval/text/perplexity"] == pytest.approx(math.exp(nats / tokens))
    assert found["eval/text/bits_per_byte"] == pytest.approx(nats / math.log(2) / sizes)
    assert len(found) == 3 * 3


def test_one_file_has_no_line_of_its_own(candidate, folder):
    assert set(TextEvaluation(files=(f"{folder}/a.txt",))(candidate)) == {
        "eval/text/loss",
        "eval/text/perplexity",
        "eval/text/bits_per_byte",
    }


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "there is no text in"), (b"\xff", "byte 0 is not UTF-8")]
)
def test_what_is_no_text_is_told(candidate, tmp_path, content, message):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        TextEvaluation(files=f"{tmp_path}/*")(candidate)
