"""A skip that tests/allowed_skips.txt does not list fails the run."""

import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pytest.skip('needs a GPU of 1 GB')", 0),
        ("pytest.skip('today is Tuesday')", 1),
        ("pytest.xfail('known')", 0),
        ("pass", 0),
    ],
)
def test_only_a_listed_reason_may_skip(tmp_path, body, code):
    for name in ("conftest.py", "allowed_skips.txt"):
        (tmp_path / name).write_text((TESTS / name).read_text())
    (tmp_path / "test_x.py").write_text(f"import pytest\ndef test_x():\n    {body}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stdout
    assert ("Tuesday" in done.stdout) == (code == 1)


def test_a_skipped_module_counts_too(tmp_path):
    for name in ("conftest.py", "allowed_skips.txt"):
        (tmp_path / name).write_text((TESTS / name).read_text())
    (tmp_path / "test_x.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    (tmp_path / "test_y.py").write_text("def test_y():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "no_such_module" in done.stdout
