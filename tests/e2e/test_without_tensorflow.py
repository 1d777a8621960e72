"""Where TensorFlow and SeqIO are absent: from a built cache everything works, and none is built."""

import os
import shutil

import pytest
import tiny_run

# As if the packages were not installed: find_spec answers None, which some libraries ask first.
ABSENCE = """\
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec.__func__


def find_some(cls, name, path=None, target=None):
    is_absent = name.partition(".")[0].startswith(("tensorflow", "seqio"))
    return None if is_absent else find_spec(cls, name, path, target)


PathFinder.find_spec = classmethod(find_some)
"""


@pytest.fixture(scope="module")
def absent(tmp_path_factory):
    """An environment in which importing TensorFlow or SeqIO fails."""
    folder = tmp_path_factory.mktemp("absent")
    (folder / "sitecustomize.py").write_text(ABSENCE)
    return os.environ | {"PYTHONPATH": f"{folder}:{tiny_run.CHECKOUT}"}


def test_train_eval_explain_and_generate_work_from_a_built_cache(
    tiny, finished, row_cache, absent, tmp_path
):
    by_name, by_definition = tmp_path / "name", tmp_path / "definition"
    prove = "import importlib.util as u; assert not any(map(u.find_spec, ('tensorflow', 'seqio')))"
    answers = tiny_run.run_each(
        [
            tiny(by_name, CACHE=row_cache),
            tiny(by_definition),
            ["eval", f"--workdir={by_definition}"],
            ["explain", *tiny(by_definition)[1:2], *tiny(by_definition)[3:]],
            ["data", "verify", str(row_cache)],
            ["generate", f"--workdir={by_name}", "--max_tokens=5"],
        ],
        prove,
        env=absent,
    )
    assert [answer.returncode for answer in answers] == [0] * 6, answers
    for workdir in (by_name, by_definition):
        tiny_run.assert_same_end(workdir, finished)
    _, _, evaluated, explained, verified, _ = answers
    assert "eval_bits_per_byte" in evaluated.stdout
    assert "layers/query" in explained.stdout and str(row_cache) in verified.stdout


def test_a_cache_is_found_by_its_definition_where_its_text_is_gone(
    tiny, finished, text, caches, absent, tmp_path
):
    gone = text.with_name("gone")
    text.rename(gone)
    try:
        (answer,) = tiny_run.run_each([tiny(tmp_path / "run")], env=absent)
    finally:
        gone.rename(text)
    assert answer.returncode == 0, answer.stderr
    tiny_run.assert_same_end(tmp_path / "run", finished)


def test_text_becomes_rows_and_a_seqio_task_is_refused_with_the_ways_out(
    tiny, text, absent, tmp_path
):
    shutil.copytree(text, tmp_path / "other")
    of_text = tiny(tmp_path / "run", TEXT_FILES=f"{tmp_path}/other/*.txt", TRAIN_STEPS=1)
    of_task = tiny(tmp_path / "run", TEXT_FILES=None, MIXTURE_OR_TASK="mine")
    built, refused = tiny_run.run_each([of_text, of_task], env=absent)
    assert built.returncode == 0 and "Writing rows" in built.stderr
    assert refused.returncode == 2
    line = refused.stderr.splitlines()[-1]
    assert "not installed" in line and "pip install" in line
    assert "build the cache on another machine" in line
