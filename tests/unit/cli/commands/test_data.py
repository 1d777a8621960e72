import re

import numpy as np
import pytest

from palmscale.cli import main
from palmscale.data.row_cache import RowCache


def test_build_builds_once_and_says_what_there_is(gin_flags, folder, tmp_path, capsys):
    elsewhere = [f"--gin.CACHE_DIRECTORY={tmp_path}"]
    assert main.run(["data", "build", *gin_flags, *elsewhere]) == 0
    first = capsys.readouterr()
    assert first.out.startswith(f"{tmp_path}/textfiles-") and "Writing rows: " in first.err
    assert main.run(["data", "build", *gin_flags]) == 0
    second = capsys.readouterr()
    assert second.out.startswith(f"{folder}\n") and "Writing rows" not in second.err
    # Built twice from the same text: the same rows, and so all the numbers.
    assert first.out.partition("\n")[2] == second.out.partition("\n")[2]


def test_build_prints_numbers_that_add_up(gin_flags, text, folder, capsys):
    assert main.run(["data", "build", *gin_flags]) == 0
    printed = capsys.readouterr().out
    totals = np.zeros(3, int)
    for name in ("train", "validation"):
        cells = re.split(r"\s{2,}", re.search(rf"^{name} .*$", printed, re.MULTILINE)[0])
        num_rows, documents, tokens, size, per_token, dropped = (
            float(cell.replace(",", "")) for cell in cells[1:]
        )
        assert tokens == num_rows * 32
        assert tokens + dropped == size + documents  # bytes, and an eod per document
        assert per_token == pytest.approx(size / (tokens + dropped), abs=1e-3)
        totals += np.array([num_rows > 0, documents, size], int)
    assert totals.tolist() == [2, 3, sum(path.stat().st_size for path in text.iterdir())]
    assert "32 tokens" in printed and "bytes, 259 tokens" in printed
    assert f"digest      {RowCache.open(folder).digest}" in printed


def test_verify_reads_everything_by_folder_or_gin_files(gin_flags, folder, capsys):
    for which in ([str(folder)], gin_flags):
        assert main.run(["data", "verify", *which]) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith(f"{folder}: ") and "rows verified" in captured.out
        assert "Verifying rows" in captured.err


def test_verify_names_the_damaged_file(folder, tmp_path, capsys):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (file,) = tmp_path.glob("train-*.arrayrecord")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    assert main.run(["data", "verify", str(tmp_path)]) == 2
    assert f"palmscale: error: {file} differs" in capsys.readouterr().err


def test_build_and_verify_go_through_a_mixture(mixture_flags, capsys):
    flags, folders = mixture_flags
    assert main.run(["data", "build", *flags]) == 0
    built = capsys.readouterr().out
    assert re.findall(r"^(\w+): (/.*)$", built, re.MULTILINE) == [
        ("first", str(folders[0])),
        ("second", str(folders[1])),
    ]
    assert main.run(["data", "verify", *flags]) == 0
    verified = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in verified] == list(map(str, folders))


def test_text_beside_a_mixture_is_refused_by_its_name(mixture_flags, gin_flags, capsys):
    flags, _ = mixture_flags
    (of_text,) = (flag for flag in gin_flags if "TEXT_FILES" in flag)
    assert main.run(["data", "build", *flags, of_text]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "TEXT_FILES has no effect" in message and "Data.corpus (" in message


def test_a_cache_and_gin_flags_together_are_refused(gin_flags, folder, capsys):
    for command in ("verify", "show"):
        assert main.run(["data", command, str(folder), *gin_flags]) == 2
        assert f"both a cache ({folder}) and gin flags" in capsys.readouterr().err
        assert main.run(["data", command]) == 2
        assert "no gin file" in capsys.readouterr().err
