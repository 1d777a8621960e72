"""A checkpoint is data: whatever it names, opening it runs none of it."""

import os
import pathlib
import shutil

import forged
import pytest
import tiny_run
from unknown_code import CALLABLES

import palmscale
from palmscale.cli import main
from palmscale.cli.config import load
from palmscale.errors import UserError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/workdirs/0.1.0"
PROBE = "probe_of_untrusted_code"


@pytest.fixture
def workdir(tmp_path):
    """A copy of a small run, in the current folder's place."""
    yield shutil.copytree(GOLDEN / "palm", tmp_path / "run")
    load.reset()


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A file that exists once code has run that only the checkpoint named."""
    mark = tmp_path / "ran"
    (tmp_path / f"{PROBE}.py").write_text(
        f"import os, pathlib\npathlib.Path({str(mark)!r}).touch()\n"
        f"class Model:\n    def __init__(self, **fields):\n        os._exit(3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return mark


def names_class(workdir, described, *, where="model"):
    """The checkpoint gives `described` as the model, or as a part of the run."""

    def change(meta):
        if where == "model":
            meta["identity"]["model"] = described
        meta["run"] = {"class": "Run", "model": meta["identity"]["model"], where: described}
        return meta

    forged.edit(workdir / "checkpoints/4", "meta.json", change)
    (workdir / "config.gin").unlink(missing_ok=True)


def described(name, mark):
    command = ["touch", str(mark)]
    return [{"class": name}, {"class": name, "args": command}, {"class": name, "command": command}]


def generate(workdir):
    return main.run(["generate", f"--workdir={workdir}", "--max_tokens=1"])


def evaluate(workdir):
    return main.run(["eval", f"--workdir={workdir}"])


def load_in_python(workdir):
    try:
        palmscale.load(workdir)
    except UserError as error:
        print(f"palmscale: error: {error}", file=__import__("sys").stderr)
        return 2
    return 0


@pytest.mark.parametrize("name", [*CALLABLES, f"{PROBE}:Model", f"{PROBE}:os.system"])
@pytest.mark.parametrize("command", [generate, evaluate, load_in_python])
def test_no_callable_that_a_checkpoint_names_is_called(command, name, workdir, mark, capsys):
    for one in described(name, mark):
        names_class(workdir, one)
        assert command(workdir) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and "the checkpoint names" in err
    assert not mark.exists()


@pytest.mark.parametrize("where", ["optimizer", "data", "layout", "warm_start"])
def test_no_part_of_a_stored_run_is_called_either(where, workdir, mark, capsys):
    names_class(workdir, {"class": "subprocess:Popen", "args": ["touch", str(mark)]}, where=where)
    assert evaluate(workdir) == 2 and not mark.exists()
    named = "cannot be built" if where == "optimizer" else "subprocess:Popen"  # evaluation has none
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["ls", "show", "show --config", "verify", "diff", "pin", "unpin", "ls --workdir"]
)
def test_commands_that_only_read_call_nothing(line, workdir, mark, capsys):
    for one in described(f"{PROBE}:Model", mark):
        names_class(workdir, one)
        command, *flags = line.split()
        if command == "diff":
            main.run(["checkpoint", "diff", str(workdir), str(GOLDEN / "palm")])
        else:
            flags = [flag for flag in flags if flag == "--config"]
            main.run(["checkpoint", command, f"--workdir={workdir}", *flags])
        assert "Traceback" not in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"import {PROBE}\nMODEL = @{PROBE}.Model()", PROBE),
        ("import subprocess\nMODEL = @subprocess.Popen()", "subprocess"),
        ("from os import path\nMODEL = @path.os.system()", "os.path"),
        ("from palmscale.optim import build\nMODEL = @build.jax.device_put()", "jax"),
        ("from palmscale.run import local_job\nMODEL = @local_job.LocalJob()", "local_job"),
        ("Data.import_modules = ('antigravity',)", "antigravity"),
        ("include '/etc/passwd'", "includes no files"),
    ],
    ids=lambda value: value.splitlines()[0] if isinstance(value, str) else "",
)
def test_the_configuration_of_a_workdir_imports_nothing(text, named, workdir, mark, capsys):
    config = workdir / "config.gin"
    kept = config.read_text().splitlines()
    if "MODEL" in text:
        kept = [line for line in kept if not line.startswith("MODEL =")]
    config.write_text("\n".join([kept[0], *text.splitlines(), *kept[1:], ""]))
    assert evaluate(workdir) == 2
    out, err = capsys.readouterr()
    assert out == "" and named in err.splitlines()[-1], err
    assert "Traceback" not in err and not mark.exists()


def test_a_chosen_module_may_not_lend_what_it_imports(workdir, mark, capsys):
    config = workdir / "config.gin"
    text = config.read_text().replace("MODEL = @", "UNUSED = @")
    config.write_text(
        text.replace("\n", "\nimport own_module\nMODEL = @own_module.nn.Dense()\n", 1)
    )
    shutil.copy(GOLDEN / "own_module.py", mark.parent)
    code = main.run(["eval", f"--workdir={workdir}", "--module=own_module"])
    assert code == 2 and "flax" in capsys.readouterr().err


def test_the_command_itself_runs_nothing_and_finds_no_code_in_its_folder(workdir, mark):
    names_class(workdir, {"class": "subprocess:Popen", "args": ["touch", str(mark)]})
    (workdir / "gcsfs.py").write_text(f"open({str(mark)!r}, 'w')\n")
    code = "import sys; sys.path.pop(0)"  # as the installed command starts
    env = os.environ | {"PYTHONPATH": str(tiny_run.CHECKOUT)}
    commands = [["generate", "--workdir=."], ["checkpoint", "ls", "--workdir=."]]
    refused, listed = tiny_run.run_each(commands, code, env=env, cwd=workdir)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "names subprocess:Popen, which is not a Linen module" in refused.stderr
    assert listed.returncode == 0 and not mark.exists()


def test_files_outside_the_checkpoint_are_not_read(workdir, capsys):
    step = workdir / "checkpoints/4"
    secret = workdir.parent / "secret"
    secret.write_text("secret")

    def named(manifest):
        manifest["files"]["../../../secret"] = {"bytes": 6, "sha256": "0"}
        return manifest

    forged.edit(step, "MANIFEST.json", named)
    assert generate(workdir) == 2
    assert "'../../../secret'" in capsys.readouterr().err
    forged.edit(step, "MANIFEST.json", lambda manifest: manifest | {"files": {
        name: file for name, file in manifest["files"].items() if ".." not in name}})  # fmt: skip
    (step / "params/linked").symlink_to(secret)
    assert generate(workdir) == 2
    assert "params/linked is a link that leads out" in capsys.readouterr().err
    assert main.run(["checkpoint", "verify", f"--workdir={workdir}"]) == 1
    assert "leads out" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("line", ["ls", "show", "verify", "diff"])
def test_nothing_that_a_terminal_would_obey_is_printed(line, workdir, capsys):
    step, told = workdir / "checkpoints/4", "\x1b]0;title\x07"

    def in_manifest(manifest):
        manifest["metrics"][told] = 1.0
        manifest["arrays"]["params"][told] = {"shape": [1], "dtype": told, "fingerprint": told}
        return manifest

    forged.edit(step, "meta.json", lambda meta: meta | {"versions": {told: told}, told: told})
    forged.edit(step, "MANIFEST.json", in_manifest)
    flags = [workdir, GOLDEN / "palm"] if line == "diff" else [f"--workdir={workdir}"]
    assert main.run(["checkpoint", line, *map(str, flags)]) in (0, 1)
    out, err = capsys.readouterr()
    assert not set(out + err) & set(told[:1] + told[-1]) and err == ""
