"""gcloud's commands for TPUs: run, or in a dry run printed."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import subprocess
from collections.abc import Sequence

from tpu_pod.errors import Mistake


@dataclasses.dataclass(frozen=True)
class Answer:
    """How a command ended, and what it wrote."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def error(self) -> str:
        """The line of gcloud that says what went wrong."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")]
        return (errors or lines or [f"gcloud exited with code {self.code}"])[-1]


@dataclasses.dataclass(frozen=True)
class Cloud:
    """`gcloud compute tpus` in one zone and project."""

    zone: str
    project: str = ""
    dry_run: bool = False

    def ask(
        self,
        noun: str,
        verb: str,
        *words: str,
        flags: Sequence[str] = (),
        track: Sequence[str] = (),
        folder: pathlib.Path | None = None,
    ) -> Answer:
        """Runs a command in `folder` and returns its answer; in a dry run only prints it."""
        line = self._line(noun, verb, words, flags, track)
        if self.dry_run:
            print(shlex.join(line), flush=True)
            return Answer(0)
        done = _run(line, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return Answer(done.returncode, done.stdout, done.stderr)

    def show(self, noun: str, verb: str, *words: str, flags: Sequence[str] = (), track=()) -> int:
        """Runs a command that writes to this terminal, and returns its exit code."""
        line = self._line(noun, verb, words, flags, track)
        if self.dry_run:
            print(shlex.join(line), flush=True)
            return 0
        return _run(line).returncode

    def _line(self, noun, verb, words, flags, track) -> list[str]:
        where = [f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else [])]
        return ["gcloud", *track, "compute", "tpus", noun, verb, *words, *where, *flags]


def _run(line: list[str], **how) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(line, errors="replace" if how.get("text") else None, **how)
    except FileNotFoundError:
        raise Mistake("gcloud is not on PATH; install the Google Cloud CLI") from None
