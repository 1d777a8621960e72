"""A trained run is exported and imported through the command, and writes the same text."""

import re

import pytest
import tiny_run

PROMPT = ["--prompt=def ", "--max_tokens=12", "--greedy"]


@pytest.fixture(scope="module")
def answers(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exchange")
    lines = {"text": ["generate", f"--workdir={finished}", *PROMPT]}
    for layout, name in (("hf", "hf"), ("safetensors", "a.safetensors")):
        out, new = folder / name, folder / f"from_{layout}"
        lines |= {
            f"{layout} out": [
                *("checkpoint", "export", f"--workdir={finished}"),
                *(f"--to={layout}", f"--output={out}"),
            ],
            f"{layout} in": [
                *("checkpoint", "import", f"--from={layout}"),
                *(f"--input={out}", f"--workdir={new}"),
            ],
            f"{layout} text": ["generate", f"--workdir={new}", *PROMPT],
            f"{layout} unimported": ["generate", f"--workdir={out}", *PROMPT],
        }
    done = tiny_run.run_each(lines.values())
    return dict(zip(lines, done, strict=True))


@pytest.mark.parametrize("layout", ["hf", "safetensors"])
def test_what_comes_back_writes_the_same_text(layout, answers):
    for what in ("out", "in", "text"):
        done = answers[f"{layout} {what}"]
        assert done.returncode == 0, done.stderr
    assert answers[f"{layout} text"].stdout == answers["text"].stdout


@pytest.mark.parametrize("layout", ["hf", "safetensors"])
def test_a_folder_that_is_not_imported_names_the_command(layout, answers):
    done = answers[f"{layout} unimported"]
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    source = re.search(rf"(\S+) holds weights in the layout {layout} and no run", done.stderr)[1]
    command = f"palmscale checkpoint import --from={layout} --input={source} --workdir="
    assert command in done.stderr
