"""A model of 38,496 parameters, trained by real `palmscale` processes, and what they leave."""

import contextlib
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import forked

CHECKOUT = pathlib.Path(__file__).parents[3]
TRAIN_STEPS = 16
TINY = {
    "PaLM.dim": 32,
    "PaLM.depth": 2,
    "PaLM.heads": 4,
    "PaLM.dim_head": 8,
    "SEQUENCE_LENGTH": 32,
    "LOSS_CHUNK_LENGTH": 32,
    "BATCH_SCHEDULE": "((0, 8),)",
    "EVAL_SEQUENCES": 16,
    "EVAL_EVERY_STEPS": 8,
    "SAVE_EVERY_STEPS": 4,
    "TRAIN_STEPS": TRAIN_STEPS,
    "SAMPLE_PROMPT": None,
}
_TIMINGS = ("wall_time", "tokens_per_second", "input_wait", "mfu", "flops")


def bindings(values):
    """`--gin.NAME=VALUE` of each."""
    return [f"--gin.{name}={value}" for name, value in values.items()]


def start(*arguments, **options):
    """A `palmscale` process in the checkout's folder, with its output in pipes."""
    command = [sys.executable, "-m", "palmscale", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": CHECKOUT}
    return forked.Popen(command, **(pipes | options))


def run(*arguments, code=0, **options):
    """The finished process, which must have exited with `code`."""
    with start(*arguments, **options) as process:
        try:
            out, err = process.communicate(timeout=1800)
        finally:
            process.kill()
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, code, out, err)


def run_each(commands, code="pass", env=None, cwd=CHECKOUT):
    """The outcome of each command line, all run in one process, after `code`, which is Python.

    With an environment of its own, which may change what Python finds, the process is not forked.
    """
    run_process = forked.run if env is None else subprocess.run
    driver = f"""
import contextlib, io, json, sys
{code}
from palmscale.cli import main
from palmscale.observe import log
for arguments in json.load(sys.stdin):
    err, out = io.StringIO(), io.StringIO()
    log.console.file = err
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            code = main.run(arguments)
        except SystemExit as exit:
            code = exit.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
    done = run_process(
        [sys.executable, "-c", driver],
        input=json.dumps([[str(argument) for argument in command] for command in commands]),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        timeout=600,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(commands), done.stderr
    assert "oneDNN" not in done.stderr  # TensorFlow's C++ prints past Python
    return [subprocess.CompletedProcess([], *answer) for answer in answers]


def steps(workdir):
    """The verified steps, oldest first."""
    return sorted(int(path.parent.name) for path in workdir.glob("checkpoints/*/VERIFIED"))


def saved(workdir, step=None):
    """Shape, dtype and fingerprint of each array, and the cursor, of a step (the last one)."""
    folder = workdir / "checkpoints" / str(steps(workdir)[-1] if step is None else step)
    arrays = json.loads((folder / "MANIFEST.json").read_text())["arrays"]
    assert arrays["params"] and arrays["optimizer"]
    return arrays, json.loads((folder / "cursor.json").read_text())


def fingerprints(arrays):
    """The fingerprints of the arrays that `saved` returns, as --step_log names them."""
    return {
        f"{item}/{name}": array["fingerprint"]
        for item, tree in arrays.items()
        for name, array in tree.items()
    }


def shapes(arrays):
    """Shape and dtype of the arrays that `saved` returns."""
    return {
        f"{item}/{name}": (array["shape"], array["dtype"])
        for item, tree in arrays.items()
        for name, array in tree.items()
    }


def witnessed(path):
    """What a run wrote with --step_log: the restored state, and each step's batch and key."""
    return list(map(json.loads, path.read_text().splitlines()))


def metrics(workdir):
    """The lines of metrics.jsonl without what a clock says."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in line.items() if not name.startswith(_TIMINGS)}
        for line in lines
    ]


def assert_same_end(workdir, reference):
    """The same last state, cursor, and metrics of every step once, bit for bit."""
    assert saved(workdir) == saved(reference)
    assert metrics(workdir) == metrics(reference)
    assert [line["step"] for line in metrics(workdir)] == list(range(1, steps(reference)[-1] + 1))


MOMENTS = (
    "while Orbax writes",
    "between Orbax's commit and VERIFIED",
    "after some step",
    "anywhen",
)


FAULTS = ("kill -9", "two SIGTERMs", "two Ctrl-Cs", "a full disk")


def kill_once(command, workdir, moment, chance: random.Random, **options):
    """Starts `command` and kills it with -9 at the moment; whether it was still running."""
    return disturb_once(command, workdir, moment, "kill -9", chance, **options) == -9


def disturb_once(command, workdir, moment, fault, chance: random.Random, **options):
    """Starts `command` and disturbs it at the moment by one of FAULTS; its exit code."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = start(*command, **silent, **options)
    checkpoints, log = workdir / "checkpoints", workdir / "metrics.jsonl"
    done = len(log.read_text().splitlines()) if log.exists() else 0
    after, delay = done + chance.randint(1, 6), chance.random() * 0.3
    end = time.monotonic() + chance.uniform(1, 6)

    def arrived():
        match moment:
            case "while Orbax writes":
                return any(checkpoints.glob("*.orbax-checkpoint-tmp*"))
            case "between Orbax's commit and VERIFIED":
                folders = [f for f in checkpoints.glob("*") if re.fullmatch(r"\d+", f.name)]
                return any(not (f / "VERIFIED").exists() for f in folders)
            case "after some step":
                return log.exists() and log.read_text().count("\n") >= after
        return time.monotonic() > end

    while process.poll() is None and not arrived():
        time.sleep(0.001)
    if moment == "after some step":
        time.sleep(delay)
    match fault:
        case "two SIGTERMs" | "two Ctrl-Cs":
            for _ in range(2):
                process.send_signal(signal.SIGTERM if fault == "two SIGTERMs" else signal.SIGINT)
                time.sleep(0.2)
            return process.wait()
        case "a full disk":
            filler = fill(checkpoints)
            time.sleep(chance.uniform(0, 3))
            process.kill()
            process.wait()
            filler.unlink()
        case "kill -9":
            process.kill()
    return process.wait()


def fill(folder):
    """Fills the disk of a folder with a file, and returns that."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler
