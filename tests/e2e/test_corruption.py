"""One flipped bit, in any kind of file: it is named, and nothing is trained on it."""

import os
import pathlib
import re
import shutil

import pytest
import tiny_run


def kinds_of_files(step):
    """One file of each kind in a step's folder: names without their digits and hex digits."""
    kinds = {}
    for path in sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size):
        kind = re.sub(r"[0-9a-f]{6,}|\d+", "#", path.relative_to(step).as_posix())
        kinds.setdefault(kind, path.relative_to(step))
    return list(kinds.values())


@pytest.mark.parametrize(
    "share", ["some", pytest.param("all", marks=pytest.mark.long)], ids=["some kinds", "all kinds"]
)
def test_a_flipped_bit_is_named_and_the_previous_step_used(tiny, finished, flip, share, tmp_path):
    names = kinds_of_files(finished / "checkpoints/16")
    plain = {"MANIFEST.json", "VERIFIED", "cursor.json", "meta.json"}
    assert plain < {str(name) for name in names}
    assert {name.parts[0] for name in names} > {"params", "optimizer"}
    if share == "some":
        arrays = [name for name in names if "ocdbt.process_0/d/" in str(name)]
        assert len(arrays) == 2
        names = [*arrays, *(name for name in names if name.name in ("MANIFEST.json", "meta.json"))]
    workdirs = [shutil.copytree(finished, tmp_path / str(i)) for i in range(len(names))]
    for workdir, name in zip(workdirs, names, strict=True):
        flip(workdir / "checkpoints/16" / name)
    answers = tiny_run.run_each([tiny(workdir) for workdir in workdirs])
    for workdir, name, answer in zip(workdirs, names, answers, strict=True):
        assert answer.returncode == 0, answer.stderr
        (warning,) = [line for line in answer.stderr.splitlines() if "step 16 is not used" in line]
        # VERIFIED holds the digest of the manifest: which of the two is damaged cannot be told.
        folder = workdir / "checkpoints/16"
        assert f"{folder / name}" in warning or (name.name == "VERIFIED" and "VERIFIED" in warning)
        assert "Resuming after step 12" in answer.stderr
        tiny_run.assert_same_end(workdir, finished)


def test_a_deleted_or_truncated_shard_is_named_and_the_previous_step_used(tiny, finished, tmp_path):
    def truncate(path):
        os.truncate(path, path.stat().st_size // 2)

    damages = {"is missing": pathlib.Path.unlink, "bytes were saved": truncate}
    workdirs = [shutil.copytree(finished, tmp_path / str(i)) for i in range(len(damages))]
    shards = [max(w.glob("checkpoints/16/params/**/d/*"), key=os.path.getsize) for w in workdirs]
    for shard, damage in zip(shards, damages.values(), strict=True):
        damage(shard)
    answers = tiny_run.run_each([tiny(workdir) for workdir in workdirs])
    for workdir, shard, words, answer in zip(workdirs, shards, damages, answers, strict=True):
        (warning,) = [line for line in answer.stderr.splitlines() if "step 16 is not used" in line]
        assert str(shard) in warning and all(word in warning for word in words.split())
        assert "Resuming after step 12" in answer.stderr and answer.returncode == 0
        tiny_run.assert_same_end(workdir, finished)


def test_with_every_checkpoint_damaged_nothing_begins_anew(tiny, finished, flip, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    for marker in workdir.glob("checkpoints/*/VERIFIED"):
        flip(marker)
    before = (workdir / "metrics.jsonl").read_bytes()
    (answer,) = tiny_run.run_each([tiny(workdir)])
    assert answer.returncode == 2 and "VERIFIED" in answer.stderr.splitlines()[-1]
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_flipped_bit_in_a_row_cache_is_refused_by_name(tiny, row_cache, flip, split, tmp_path):
    cache = shutil.copytree(row_cache, tmp_path / "cache")
    (shard,) = cache.glob(f"{split}-*.arrayrecord")
    content = bytearray(shard.read_bytes())
    # One bit in every 64 bytes: whichever rows a short run reads, some of them are damaged.
    content[::64] = bytes(byte ^ 1 for byte in content[::64])
    shard.write_bytes(bytes(content))
    workdir = tmp_path / "run"
    (answer,) = tiny_run.run_each([tiny(workdir, CACHE=cache)])
    errors = [line for line in answer.stderr.splitlines() if "palmscale: error" in line]
    assert answer.returncode == 2 and len(errors) == 1 and shard.name in errors[0], answer.stderr
