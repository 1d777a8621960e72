"""Commands on every worker of every slice, and what each worker answers."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import re
import tempfile

from tpu_pod.cloud import Answer, Cloud
from tpu_pod.options import Options


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a worker answered to a command.

    Attributes:
        node: the TPU.
        worker: number in the slice; None: no worker of it answered.
        code: exit code of the command; None: the worker cannot be reached.
        lines: that it printed; for one that cannot be reached, gcloud's or ssh's error.
    """

    node: str
    worker: int | None
    code: int | None
    lines: tuple[str, ...]

    @property
    def last(self) -> str:
        """The last line."""
        return self.lines[-1] if self.lines else ""

    @property
    def who(self) -> str:
        """The worker, as messages name it."""
        return (
            f"slice {self.node}" if self.worker is None else f"worker {self.worker} of {self.node}"
        )


def everywhere(cloud: Cloud, options: Options, text: str) -> list[Reply]:
    """Runs a shell command on every worker and returns their replies, ordered by slice and worker.

    Each command prints its own exit code last. What gcloud returns is one code for all workers, in
    which a failed command cannot be told from a worker that was not reached.
    """
    marked = f"( {text} ); printf '\\nexit %s\\n' $?"
    if cloud.dry_run:
        for node in options.nodes:
            _ssh(cloud, node, marked, None)
        return []
    with tempfile.TemporaryDirectory(prefix="tpu_pod-") as root:
        folders = {node: pathlib.Path(root) / node for node in options.nodes}
        for folder in folders.values():
            folder.mkdir()
            # Some versions of gcloud, such as 528, write to the folder "None" in place of the one
            # that --output-directory names.
            (folder / "None").symlink_to(".")
        with concurrent.futures.ThreadPoolExecutor(len(folders)) as pool:
            answers = pool.map(lambda node: _ssh(cloud, node, marked, folders[node]), folders)
            return [
                reply
                for (node, folder), answer in zip(folders.items(), answers)
                for reply in _replies(node, folder, answer)
            ]


def unreachable(replies: list[Reply]) -> list[str]:
    """Returns one line for each worker or slice that did not answer."""
    return [f"{r.who} cannot be reached: {r.last}" for r in replies if r.code is None]


def failed(replies: list[Reply]) -> list[str]:
    """Returns one line for each worker whose command failed, or that did not answer."""
    lines = [f"{r.who}: {r.last or f'exit code {r.code}'}" for r in replies if r.code]
    return lines + unreachable(replies)


def _ssh(cloud: Cloud, node: str, text: str, folder: pathlib.Path | None) -> Answer:
    flags = ["--worker=all", f"--command={text}", "--output-directory=."]
    return cloud.ask("tpu-vm", "ssh", node, flags=flags, folder=folder)


def _replies(node: str, folder: pathlib.Path, answer: Answer) -> list[Reply]:
    logs = sorted(folder.glob("*.log"), key=lambda path: int(path.stem))
    replies = [_reply(node, path, answer) for path in logs]
    if answer.code and all(reply.code == 0 for reply in replies):
        # gcloud gave up before it reached all workers.
        replies.append(Reply(node, None, None, (answer.error,)))
    return replies or [Reply(node, None, 0, ())]


def _reply(node: str, path: pathlib.Path, answer: Answer) -> Reply:
    text = path.read_text(errors="replace")
    lines = [line for line in text.split("\n") if line.strip()]
    end = re.fullmatch(r"exit ([0-9]+)", lines[-1]) if lines else None
    if end:
        return Reply(node, int(path.stem), int(end[1]), tuple(lines[:-1]))
    if answer.code == 0:
        return Reply(node, int(path.stem), 0, tuple(lines))
    return Reply(node, int(path.stem), None, tuple(lines) or (answer.error,))
