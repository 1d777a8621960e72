"""However a run ends: its exit code, its last line, and the step that is really on the disk."""

import dataclasses
import re
import signal
import time

import pytest
import tiny_job
import tiny_run
from tiny_job import AT_STEP, PAIR, Job

SLOW_SAVES = """
import time
from palmscale.checkpoint import commit
end_of_save = commit.commit
def slowly(*arguments, **more):
    time.sleep(0.5)
    end_of_save(*arguments, **more)
commit.commit = slowly
"""
SAVE_RAISES = """
from palmscale.checkpoint import commit
start = commit.save_arrays
def raising(path, items):
    if path.name == "8":
        raise ValueError("a bug")
    return start(path, items)
commit.save_arrays = raising
"""
SLOW_COMPILE = """
import time
from palmscale.train.compile import CompiledStep
def compile(self, lowered):
    print("compiling now")
    time.sleep(100)
CompiledStep.compile = compile
"""
# Run at step 5, once step 4 is verified.
FAULTS = """
import pathlib, shutil, time
def fault(kind, workdir):
    workdir = pathlib.Path(workdir)
    while not (workdir / "checkpoints/4/VERIFIED").exists():
        time.sleep(0.01)
    if kind == "workdir removed":
        shutil.rmtree(workdir, ignore_errors=True)
    if kind == "disk full":
        with open(workdir / "checkpoints/filler", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
    if kind == "two Ctrl-Cs":
        print("standing still")
        time.sleep(100)
"""


@dataclasses.dataclass(frozen=True)
class Ending:
    """What is done to a run that has saved step 4, and how it ends.

    Attributes:
        code: exit code.
        last_line: of process 0.
        on_disk: the newest verified step; `saved`: the one that the last line names.
        signals: sent to one process, 0.2 s apart.
        when: what the log says by then; None: after step 5.
        disturbed: run by each process before its own work.
    """

    code: int
    last_line: str
    on_disk: int | str | None
    signals: tuple[int, ...] = ()
    when: str | None = None
    disturbed: str = ""


NOT_SAVED = "palmscale: error: the checkpoint of step 8 was not saved: "
SAVED = re.escape("Asked to end: saved step ") + r"(\d+)\. The same command resumes from it\."
INTERRUPTED = r"palmscale: error: interrupted: saved step (\d+); to continue from \S+, run the same"
GOOD = "; the last good checkpoint is step 4; run again with --debug"
ENDINGS = {
    "disk full": Ending(1, f"{NOT_SAVED}.*No space left.*{GOOD}", 4),
    "workdir removed": Ending(1, f"{NOT_SAVED}.*; .*/checkpoints is gone; run again", None),
    "save raises": Ending(1, f"{NOT_SAVED}a bug.*{GOOD}", 4, disturbed=SAVE_RAISES),
    "SIGTERM": Ending(75, SAVED, "saved", (signal.SIGTERM,)),
    "two SIGTERMs": Ending(75, SAVED, "saved", (signal.SIGTERM,) * 2, disturbed=SLOW_SAVES),
    "Ctrl-C": Ending(130, INTERRUPTED, "saved", (signal.SIGINT,)),
    "two Ctrl-Cs": Ending(
        130,
        "palmscale: error: interrupted again: ended at once, without saving; to continue from",
        4,
        (signal.SIGINT,) * 2,
        when="standing still",
    ),
    "SIGTERM while compiling": Ending(
        75,
        "palmscale: error: asked to end before training began; there is nothing to save",
        None,
        (signal.SIGTERM,),
        when="compiling now",
        disturbed=SLOW_COMPILE,
    ),
}
# The others are tested in one process, in tests/unit.
SHORT = {("disk full", 2), ("two SIGTERMs", 2), ("Ctrl-C", 2), ("SIGTERM while compiling", 1)}


def case(name, processes):
    marks = [] if (name, processes) in SHORT else [pytest.mark.long]
    return pytest.param(name, processes, id=f"{name}, {processes}", marks=marks)


@pytest.mark.parametrize(
    ("name", "processes"), [case(name, processes) for name in ENDINGS for processes in (1, 2)]
)
def test_a_run_ends_truthfully(name, processes, tiny, tmp_path, request):
    ending, workdir = ENDINGS[name], tmp_path / "run"
    steps = 100_000 if ending.signals else 8
    changes = PAIR | {
        "DATA": processes,
        "TRAIN_STEPS": steps,
        "EVAL_EVERY_STEPS": None,
        "SAVE_EVERY_STEPS": 50_000 if ending.on_disk == "saved" else 4,
        "MAX_FAILED_SAVES": 1,
    }
    if name == "disk full":
        request.getfixturevalue("small_disk")(workdir / "checkpoints")
    fault = AT_STEP.format(step=5, act=f"fault({name!r}, {str(workdir)!r})") + FAULTS
    code = ending.disturbed or (fault if ending.on_disk != "saved" else "")
    command = tiny(workdir, **changes)
    with Job(
        command, tmp_path / "logs", processes=processes, code=dict.fromkeys(range(processes), code)
    ) as job:
        if ending.signals:
            job.when(
                lambda: (
                    ending.when in job.said(0) if ending.when else tiny_job.steps_done(workdir) >= 5
                )
            )
        for number in ending.signals:
            job.send(0, number)
            time.sleep(0.2)
        codes = job.wait()
    said = [line for line in job.said(0).splitlines() if line.startswith(("[0] ", "palm", "Asked"))]
    assert codes == [ending.code] * processes, job.said(0)
    # Of two processes, the other may have been the first to end.
    line = re.sub(r"process \d on \S+ ended: ", "", said[-1].removeprefix("[0] "))
    assert (found := re.match(ending.last_line, line)), line
    assert "Trained" not in job.said(0)
    last = int(found[1]) if ending.on_disk == "saved" else ending.on_disk
    assert (tiny_run.steps(workdir) or [None])[-1] == last
    if ending.on_disk == "saved":
        assert last == tiny_job.steps_done(workdir)
