import json
import re
import shutil

import jax.numpy as jnp
import pytest

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.policy import KeepPolicy
from palmscale.checkpoint.steps import StepFolders
from palmscale.checkpoint.store import CheckpointStore
from palmscale.cli import main
from palmscale.cli.commands import checkpoint

PARAMS = {"embedding": jnp.ones((6, 4)), "layers": {"gate": jnp.ones((2, 4, 8), jnp.bfloat16)}}
META = {
    "identity": {"model": {"class": "palmscale.model.palm:PaLM", "dim": 4}, "seed": 3},
    "vocabulary": {"kind": "bytes", "size": 259},
    "sequence_length": 32,
    "num_params": 88,
    "operative_config": "PaLM.dim = 4\n",
    "mesh": {"replica": 1, "data": 4, "model": 2},
    "versions": {"jax": "0.10.2"},
}
BITS = {10: 2.5, 20: 2.25, 30: 2.75}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with three steps, the best in the middle. Not to be written to."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    with Lease(workdir) as lease:
        keep = KeepPolicy(latest=9)
        with CheckpointStore(workdir / "checkpoints", keep=keep, lease=lease) as store:
            for step, bits in BITS.items():
                store.save(
                    step,
                    params=PARAMS,
                    optimizer_state={"count": jnp.int32(step)},
                    cursor={"step": step, "next_row": 8 * step, "skips": []},
                    meta=META,
                    metrics={"eval_loss": bits},
                )
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def printed(capsys, *line, code=0):
    assert main.run(["checkpoint", *map(str, line)]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_ls_lists_the_steps_and_marks_the_best(saved, capsys):
    header, _, *lines = printed(capsys, "ls", f"--workdir={saved}").splitlines()
    assert header.split() == ["step", "state", "size", "eval_loss", "age"]
    assert [line.split()[0] for line in lines] == ["10", "20", "30"]
    assert ["(best)" in line for line in lines] == [False, True, False]
    assert all("verified" in line and "KiB" in line for line in lines)
    assert "2.2500" in lines[1] and lines[1].endswith(" s")


def test_ls_tells_the_unfinished_and_the_corrupt(workdir, capsys):
    steps = workdir / "checkpoints"
    (steps / "30/VERIFIED").unlink()
    (steps / "30/MANIFEST.json").unlink()
    manifest = steps / "20/MANIFEST.json"
    manifest.write_text(manifest.read_text().replace("2.25", "1.25"))
    *_, first, second, third = printed(capsys, "ls", f"--workdir={workdir}").splitlines()
    assert first.split()[:3] == ["10", "(best)", "verified"]
    assert second.split() == ["20", "corrupt"] and third.split() == ["30", "unfinished"]


def test_a_lost_marker_and_folders_that_are_no_steps_are_named(workdir, capsys):
    steps = workdir / "checkpoints"
    (steps / "30/VERIFIED").unlink()
    shutil.copytree(steps / "10", steps / "40")
    shutil.copytree(steps / "20", steps / "0020")
    *_, marker, stray, copy = printed(capsys, "ls", f"--workdir={workdir}").splitlines()
    assert marker.split() == ["30", "unmarked"]
    assert stray.startswith("0020") and "not used: the folder of step 20 is named 20" in stray
    assert copy.startswith("40") and "it is a copy of step 10, by its MANIFEST.json" in copy
    told = printed(capsys, "verify", f"--workdir={workdir}").splitlines()
    assert [line.split()[0] for line in told[2:]] == ["10", "20", "30", "0020", "40"]
    assert "intact; resume the run" in told[4] and "not used" in told[5]
    line = printed(capsys, "show", f"--workdir={workdir}", "--checkpoint=40", code=2)
    assert "no verified checkpoint 40" in line and "40: it is a copy of step 10" in line
    assert "30: its VERIFIED is missing" in line


def test_show_tells_everything_of_the_latest(saved, capsys):
    told = printed(capsys, "show", f"--workdir={saved}")
    facts = dict(re.findall(r"^(\w+)  +(.*)$", told.partition("\n\n")[0], re.MULTILINE))
    assert facts.pop("step").startswith("30, ") and '"next_row": 240' in facts.pop("cursor")
    assert facts == {
        "metrics": "eval_loss 2.7500",
        "parameters": "88",
        "mesh": "replica=1 x data=4 x model=2",
        "versions": "jax 0.10.2",
        "vocabulary": "kind=bytes  size=259",
        "row": "32 tokens",
        "model": "class=palmscale.model.palm:PaLM  dim=4",
        "seed": "3",
    }
    arrays = json.loads((saved / "checkpoints/30/MANIFEST.json").read_text())["arrays"]
    gate = arrays["params"]["layers/gate"]["fingerprint"]
    assert f"params/layers/gate   2 4 8   bfloat16   {gate}" in told
    assert "optimizer/count" in told
    assert "PaLM.dim = 4" not in told


@pytest.mark.parametrize(("which", "step"), [("best", 20), ("10", 10), ("latest", 30)])
def test_show_takes_a_step_or_the_best(saved, capsys, which, step):
    told = printed(capsys, "show", f"--workdir={saved}", f"--checkpoint={which}")
    assert told.split()[:2] == ["step", f"{step},"]


def test_show_prints_the_configuration_alone_so_that_it_can_be_a_file(saved, capsys):
    assert printed(capsys, "show", f"--workdir={saved}", "--config") == "PaLM.dim = 4\n"


@pytest.mark.parametrize("command", ["ls", "show", "verify", "pin", "unpin"])
def test_a_workdir_without_a_run_is_named(command, tmp_path, capsys):
    error = printed(capsys, command, f"--workdir={tmp_path}/no", code=2)
    assert f"there is no run in {tmp_path}/no" in error
    (tmp_path / "empty/checkpoints").mkdir(parents=True)
    error = printed(capsys, command, f"--workdir={tmp_path}/empty", code=2)
    assert "checkpoint" in error and "empty" in error


def test_a_step_that_is_not_there_is_refused_with_those_that_are(saved, capsys):
    error = printed(capsys, "show", f"--workdir={saved}", "--checkpoint=15", code=2)
    assert "no verified checkpoint 15" in error and "verified: 10, 20, 30" in error


def test_verify_reads_every_byte_and_names_each_damaged_file(workdir, capsys):
    steps = workdir / "checkpoints"
    *_, first, second, third = printed(capsys, "verify", f"--workdir={workdir}").splitlines()
    assert [line.split()[:2] for line in (first, second, third)] == [
        ["10", "good"], ["20", "good"], ["30", "good"]]  # fmt: skip
    largest = max((steps / "20/params").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    (steps / "20/cursor.json").unlink()
    (steps / "30/VERIFIED").unlink()
    (steps / "30/MANIFEST.json").unlink()
    assert main.run(["checkpoint", "verify", f"--workdir={workdir}"]) == 1
    told = capsys.readouterr().out
    assert re.search(r"10 +good", told) and re.search(r"30 +unfinished", told)
    assert re.search(r"20 +damaged .*cursor.json is missing", told, re.DOTALL)
    assert largest.name in told and "is damaged: its SHA-256" in told.replace("\n", " ")
    assert (steps / "20/VERIFIED").exists()  # it looks, and changes nothing
    command = ["checkpoint", "verify", f"--workdir={workdir}", "--checkpoint"]
    assert [main.run([*command, which]) for which in ("10", "latest", "best", "20")] == [0, 1, 1, 1]
    (steps / "20/VERIFIED").rename(steps / "20/CORRUPT")
    capsys.readouterr()
    assert main.run([*command, "20"]) == 1 and "cursor.json" in capsys.readouterr().out
    assert "verified: 10" in printed(capsys, *command[1:], "15", code=2)


def test_verify_says_how_a_step_that_is_whole_again_can_be_used(workdir, capsys):
    steps = workdir / "checkpoints"
    (steps / "20/VERIFIED").rename(steps / "20/CORRUPT")
    assert main.run(["checkpoint", "verify", f"--workdir={workdir}", "--checkpoint=20"]) == 1
    assert "rename its CORRUPT to VERIFIED" in capsys.readouterr().out.replace("\n", " ")


def test_a_step_that_its_run_deletes_meanwhile_is_no_damage(workdir, capsys, monkeypatch):
    whole = StepFolders.damages

    def delete_first(folders, step):
        if step == 20:
            folders.delete(step)
        return whole(folders, step)

    monkeypatch.setattr(StepFolders, "damages", delete_first)
    *_, first, second = printed(capsys, "verify", f"--workdir={workdir}").splitlines()
    assert first.split()[:2] == ["10", "good"] and second.split()[:2] == ["30", "good"]


def test_a_pin_is_listed_and_taken_back(workdir, capsys):
    assert "step 20 is pinned" in printed(
        capsys, "pin", f"--workdir={workdir}", "--checkpoint=best"
    )
    *_, second, _ = printed(capsys, "ls", f"--workdir={workdir}").splitlines()
    assert "verified, pinned" in second
    error = printed(capsys, "unpin", f"--workdir={workdir}", "--checkpoint=30", code=2)
    assert "step 30 is not pinned; pinned: 20" in error
    assert "no longer" in printed(capsys, "unpin", f"--workdir={workdir}", "--checkpoint=20")
    assert "pinned" not in printed(capsys, "ls", f"--workdir={workdir}")


def test_damaged_meta_is_named(workdir, capsys):
    meta = workdir / "checkpoints/30/meta.json"
    meta.write_text(meta.read_text().replace("88", "89"))
    assert f"{meta} is damaged" in printed(capsys, "show", f"--workdir={workdir}", code=2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (59, "59 s"), (61, "1 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_an_age_has_one_unit(seconds, text):
    assert checkpoint.age(seconds) == text
