import dataclasses
import os
import pathlib
import subprocess
import tarfile

import pytest
import source_tree
from tpu_pod import ship
from tpu_pod.cloud import Answer
from tpu_pod.errors import Fault, Mistake

SECRETS = (".env", "hf_token", "key.pem", "sub/my-credentials.json", "id_ed25519", "token.json")


@pytest.fixture
def code(tmp_path):
    """A folder with what palmscale's code must have, and a little more."""
    root = tmp_path / "code"
    for name in (*ship._NEEDED, ".gitignore", "notes.txt", "my_tokens.py", "runs/big", *SECRETS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / ".gitignore").write_text("/runs/\n")
    return root


def git(root, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


def as_checkout(root, name):
    if name == "inside another checkout":
        git(root.parent, "init", "-q")
        (root.parent / ".gitignore").write_text("/code/\n")
    elif name == "checkout":
        git(root, "init", "-q")
        git(root, "add", *ship._NEEDED)


@pytest.mark.parametrize("where", ["checkout", "no checkout", "inside another checkout"])
def test_the_tree_is_shipped_without_what_is_ignored_or_looks_like_a_secret(code, where):
    as_checkout(code, where)
    files, secret = ship.code_files(code)
    expected = sorted([*ship._NEEDED, ".gitignore", "my_tokens.py", "notes.txt"])
    assert (files, sorted(secret)) == (expected, sorted(SECRETS))


def test_a_secret_is_shipped_if_it_is_asked_for_or_tracked(code):
    as_checkout(code, "checkout")
    git(code, "add", "-f", "key.pem")
    files, secret = ship.code_files(code, ("./hf_token",))
    assert {"hf_token", "key.pem"} <= set(files) and not {"hf_token", "key.pem"} & set(secret)
    with pytest.raises(Mistake, match="--include=absent is not a file"):
        ship.code_files(code, ("absent",))


def test_deleted_files_are_left_out_and_code_without_its_parts_is_refused(code):
    as_checkout(code, "checkout")
    (code / "notes.txt").unlink()
    assert "notes.txt" not in ship.code_files(code)[0]
    (code / "constraints.txt").unlink()
    with pytest.raises(Mistake, match="is not a checkout of palmscale: constraints.txt is missing"):
        ship.code_files(code)


def test_git_that_is_absent_is_one_line(code, monkeypatch):
    monkeypatch.setenv("PATH", str(code))
    with pytest.raises(Mistake, match="git is not on PATH"):
        ship.code_files(code)


def test_no_file_of_this_tree_looks_like_a_secret():
    names = [path.name for path in source_tree.CHECKOUT.rglob("*") if ".git" not in path.parts]
    ours = [name for name in names if name.endswith((".py", ".md", ".gin"))]
    assert not list(filter(ship._SECRET.fullmatch, ours))


def test_variables_travel_in_a_private_file_and_on_no_command_line(
    code, gcloud, cloud, options, monkeypatch
):
    seen = {}

    def answer(words, folder):
        if words[1] == "scp":
            file = folder / ship.ENVIRONMENT
            seen.update(text=file.read_text(), mode=file.stat().st_mode & 0o777)
            with tarfile.open(folder / ship.ARCHIVE) as archive:
                seen["files"] = archive.getnames()
        else:
            (folder / "0.log").write_text("exit 0")

    monkeypatch.setenv("KEY", "it's $hidden")
    lines = gcloud(answer)
    asked = dataclasses.replace(options, env=("KEY",), command=("train",))
    ship.ship(cloud, asked, code)
    assert seen["mode"] == 0o600 and "palmscale/__init__.py" in seen["files"]
    assert "hidden" not in str(lines) + ship.start_text(asked)
    # A worker's start gives them to the job, and leaves no file.
    home = code.parent / "home"
    (home / "palmscale/launch").mkdir(parents=True)
    (home / ship.ENVIRONMENT).write_text(seen["text"])
    worker = home / "palmscale/launch/worker.sh"
    worker.write_text('#!/bin/sh\necho "$KEY" "$@"\n')
    worker.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", ship.start_text(asked)],
        cwd=home,
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "it's $hidden start -- palmscale train\n"
    assert not (home / ship.ENVIRONMENT).exists()


def test_the_error_quoted_is_that_of_the_worker_at_fault(code, gcloud, cloud, options):
    def answer(words, folder):
        if words[1] == "ssh":
            (folder / "0.log").write_text("No space left on device\nexit 1")
            (folder / "1.log").write_text("all is well\nexit 0")
            return Answer(1, err="##### Command execution on worker 0 failed")

    gcloud(answer)
    with pytest.raises(Fault, match="failed: worker 0 of palm: No space left on device$"):
        ship.ship(cloud, options, code)


def test_a_slice_that_takes_no_copy_is_named(code, gcloud, cloud, options):
    gcloud(lambda words, folder: Answer(1, err="ERROR: (gcloud) SSH Key is not in the agent"))
    with pytest.raises(Fault, match="slice palm: ERROR: .*SSH Key is not in the agent"):
        ship.ship(cloud, options, code)


@pytest.mark.parametrize("state", ["running", "ended"])
def test_files_are_never_removed_under_a_live_job(options, tmp_path, state):
    home = tmp_path / "home"
    for name in ("launch", "palmscale", "configs"):
        (home / "palmscale" / name).mkdir(parents=True)
    (home / "palmscale/palmscale/old.py").write_text("")
    worker = home / "palmscale/launch/worker.sh"
    worker.write_text(f"#!/bin/sh\nprintf '{state}\\t-\\t1\\t7\\thost\\tlast\\n'\n")
    worker.chmod(0o755)
    new = tmp_path / "new.py"
    new.write_text("")
    with tarfile.open(home / ship.ARCHIVE, "w:gz") as archive:
        archive.add(new, "palmscale/new.py")
    quick = dataclasses.replace(options, install="echo installed")
    done = subprocess.run(
        ["bash", "-c", ship._install_text(quick)], cwd=home, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = ([], ["old.py"]) if state == "running" else (["installed"], ["new.py"])
    found = sorted(p.name for p in pathlib.Path(home / "palmscale/palmscale").iterdir())
    assert (done.stdout.split(), found) == expected
