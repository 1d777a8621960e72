"""palmscale as a library, as a person's script or notebook uses it: in processes of its own."""

import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

CHECKOUT = pathlib.Path(__file__).parents[2]

RUN = """
import palmscale
from palmscale import (
    Adafactor, BatchSchedule, Corpus, Data, InverseSqrt, Layout, MeshSpec, PaLM, Run, Saving,
    TextFiles, Training,
)

run = Run(
    model=PaLM(dim=32, num_tokens=259, padded_tokens=272, depth=2, heads=4, dim_head=8),
    optimizer=Adafactor(
        learning_rate=InverseSqrt(peak=1e-2, hold_steps=10_000),
        beta1=0.9,
        beta2_exponent=0.8,
        weight_decay_lr_exponent=2.0,
        clip_global_norm=1.0,
    ),
    data=Data(
        corpus=Corpus(source=TextFiles(files="*.txt"), held_out_fraction=0.3),
        sequence_length=32,
        seed=0,
        cache_directory="caches",
    ),
    training=Training(
        steps=4, batch_schedule=BatchSchedule(((0, 8),)), z_loss=1e-4, seed=0, loss_chunk_length=32
    ),
    layout=Layout(mesh=MeshSpec(data=2, model=1), simulated_devices=DEVICES),
    saving=Saving(every_steps=2),
)
"""


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"def {name}(x):\n    return x + {name!r}\n" * 40)
    return tmp_path


def python(folder, code, *, devices=2, launcher=(), **environment):
    """Runs a script, without `if __name__ == "__main__"`, in the folder."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(RUN.replace("DEVICES", str(devices)) + code))
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "JAX_PLATFORMS": "cpu"} | environment
    command = [*launcher, "python" if launcher else sys.executable, str(script)]
    path = f"{pathlib.Path(sys.executable).parent}:{environment['PATH']}"
    return subprocess.run(
        command, cwd=folder, env=environment | {"PATH": path}, capture_output=True, text=True
    )


def test_a_run_built_field_by_field_needs_neither_gin_nor_the_command_line(folder):
    done = python(
        folder,
        """
import dataclasses, sys
result = palmscale.train(run, "runs/mine")
print(result.step, result.finished, sorted(result.metrics)[0])
more = dataclasses.replace(run, training=dataclasses.replace(run.training, steps=6))
print(palmscale.train(more, "runs/mine").step)
trained = palmscale.load("runs/mine")
print(trained.step, trained.model == run.model, repr(trained.generate("def ", max_tokens=5)))
print(trained.score(["def a(x):"])[0].bits_per_byte > 0)
print(palmscale.evaluate(run, "runs/mine").metrics["eval_loss"] > 0)
print(len(palmscale.history("runs/mine")["loss"]))
print([name for name in sys.modules if name == "gin" or name.startswith("palmscale.cli")])
""",
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "4 True accuracy" and lines[1] == "6" and lines[2].startswith("6 True '")
    assert lines[3:] == ["True", "True", "6", "[]"]


def test_a_plan_needs_neither_gin_nor_the_command_line(folder):
    done = python(
        folder,
        """
import dataclasses, sys
four = dataclasses.replace(run, layout=Layout(mesh=MeshSpec(data=2, model=2)))
plan = palmscale.plan(four, topology="v5e:2x2")
print(type(plan.verdict).__name__)
print([name for name in sys.modules if name == "gin" or name.startswith("palmscale.cli")])
""",
        devices=4,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["Fits", "[]"]


def test_a_run_of_gin_files_is_the_one_of_the_command_line(folder):
    done = python(
        folder,
        """
run = palmscale.load_run(
    "configs/runs/quickstart.gin", TRAIN_STEPS=3, TEXT_FILES="*.txt", **{"PaLM.dim": 64}
)
print(run.training.steps, run.model.dim, run.data.corpus.source.files)
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "64", "*.txt"]


def test_two_processes_train_one_job(folder):
    done = python(
        folder,
        """
result = palmscale.train(run, "runs/two", place=palmscale.place_from())
print(result.step)
""",
        devices=1,
        launcher=[f"{CHECKOUT}/launch/local.sh", "2", "--logs=logs"],
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "on 2 cpu device(s), data=2" in done.stderr
    assert "4" in done.stdout.split()


def test_the_example_of_the_docs_runs_as_it_stands(folder):
    text = (CHECKOUT / "docs/python.md").read_text()
    code = max(re.findall(r"```python\n(.*?)```", text, re.DOTALL), key=len)
    (folder / "example.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
