"""Workdirs of earlier versions: every command opens them, and their runs resume."""

import math
import pathlib
import shutil
import sys

import forked
import pytest
import tiny_run

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/workdirs/0.1.0"
EVAL_LOSS = {"palm": 6.139592, "own_module": 5.554620}  # as `palmscale eval` of 0.1.0 printed it
LONGER = "('optimizer.learning_rate.total_steps',)"  # of the cosine, which follows the steps
LOAD = """
import own_module, palmscale
for name in ("palm", "own_module"):
    trained = palmscale.load(name)
    print(name, type(trained.model).__name__, trained.step, trained.vocabulary.size)
    assert trained.score(["def a(x):"])[0].bits_per_byte > 0
print(sorted(palmscale.history("palm"))[0], palmscale.history("palm")["eval_loss"][-1])
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The outcome of each command, run in a copy of the golden folder."""
    folder = tmp_path_factory.mktemp("old") / "runs"
    shutil.copytree(GOLDEN, folder)

    def resume(name, *more):
        flags = [f"--gin_file={name}/config.gin", f"--workdir={name}", *more]
        return ["train", *flags, f"--gin.CACHE_DIRECTORY={folder}/caches"]

    commands = {}
    for name in ("palm", "own_module"):
        at = f"--workdir={name}"
        trusted = ["--module=own_module"] if name == "own_module" else []
        commands |= {
            f"{name} ls": ["checkpoint", "ls", at],
            f"{name} show": ["checkpoint", "show", at],
            f"{name} verify": ["checkpoint", "verify", at],
            f"{name} eval": ["eval", at, *trusted, f"--gin.CACHE_DIRECTORY={folder}/caches"],
            f"{name} best": [
                "eval", at, *trusted, "--checkpoint=best",
                f"--gin.CACHE_DIRECTORY={folder}/caches",
            ],
            f"{name} generate": [
                "generate", at, *trusted, "--prompt=def ", "--max_tokens=4", "--greedy"
            ],
            f"{name} explain": ["explain", f"--gin_file={name}/config.gin"],
            f"{name} again": resume(name),
            f"{name} more": resume(name, "--gin.TRAIN_STEPS=6", f"--gin.ALLOW_CHANGES={LONGER}"),
            f"{name} other seed": resume(name, "--gin.TRAIN_STEPS=8", "--gin.SEED=5"),
            f"{name} diff": ["checkpoint", "diff", name, f"{GOLDEN}/{name}"],
        }  # fmt: skip
    # First: once a command has imported the user's module, it is one of the program's own.
    untold = {f"untold {name}": [name, "--workdir=own_module"] for name in ("eval", "generate")}
    commands = untold | commands
    outcomes = tiny_run.run_each(commands.values(), cwd=folder)
    return folder, dict(zip(commands, outcomes, strict=True))


@pytest.mark.parametrize("name", ["palm", "own_module"])
def test_every_command_opens_it(said, name):
    _, outcome = said
    for command in ("ls", "show", "verify", "eval", "best", "explain"):
        done = outcome[f"{name} {command}"]
        assert done.returncode == 0, (command, done.stderr)
    assert "good" in outcome[f"{name} verify"].stdout
    first, *values = outcome[f"{name} eval"].stdout.splitlines()
    assert first == "step 4"
    loss = float(dict(map(str.split, values))["eval_loss"])
    assert math.isclose(loss, EVAL_LOSS[name], abs_tol=1e-5)


@pytest.mark.parametrize("name", ["palm", "own_module"])
def test_its_run_resumes_and_only_that_run(said, name):
    folder, outcome = said
    assert outcome[f"{name} again"].returncode == 0, outcome[f"{name} again"].stderr
    assert "There is nothing to do" in outcome[f"{name} again"].stderr
    assert outcome[f"{name} more"].returncode == 0, outcome[f"{name} more"].stderr
    assert "Resuming after step 4" in outcome[f"{name} more"].stderr
    assert [line["step"] for line in tiny_run.metrics(folder / name)] == [1, 2, 3, 4, 5, 6]
    assert outcome[f"{name} other seed"].returncode == 2
    assert "seed: 0 -> 5" in outcome[f"{name} other seed"].stderr
    assert outcome[f"{name} diff"].returncode == 1, outcome[f"{name} diff"].stderr


def test_a_note_says_what_the_names_in_its_configuration_are_now(said):
    _, outcome = said
    notes = [line for line in outcome["palm eval"].stderr.splitlines() if "config.gin" in line]
    assert notes, outcome["palm eval"].stderr


def test_it_generates_what_it_did(said):
    _, outcome = said
    assert outcome["palm generate"].returncode == 0, outcome["palm generate"].stderr
    assert outcome["palm generate"].stdout == "def " + "\ufffd" * 4 + "\n"
    refused = outcome["own_module generate"]
    assert refused.returncode == 2 and "cannot generate text" in refused.stderr


@pytest.mark.parametrize("command", ["eval", "generate"])
def test_a_users_module_is_imported_only_if_the_user_names_it(said, command):
    refused = said[1][f"untold {command}"]
    assert refused.returncode == 2 and refused.stdout == ""
    assert "if you trust own_module, choose it: modules=own_module" in refused.stderr
    assert "(set modules by --module)" in refused.stderr


def test_python_loads_it(said):
    folder, _ = said
    done = forked.run([sys.executable, "-c", LOAD], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    palm, own, history = done.stdout.splitlines()
    assert palm.split() == ["palm", "PaLM", "6", "259"] and own.split()[2:] == ["6", "259"]
    assert history.startswith("accuracy ")
