"""What the processes of a job do together about the files of a step: each its share of them.

It goes over the coordination service alone, so that a thread may do it while the devices train.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from palmscale.checkpoint import digest
from palmscale.cluster.agree import Peers
from palmscale.errors import CorruptionError


def finish_step(
    peers: Peers,
    directory: Path,
    *,
    committed: Callable[[], None],
    extra: Mapping[str, Any],
    timeout_seconds: float,
) -> None:
    """Waits for the commit of a step, has each process digest its share, and marks it verified.

    Args:
        peers: all of them call it, for the same step.
        directory: of the step, which all processes see.
        committed: returns once this process's part is written; raises where it failed.
        extra: what process 0 adds to the manifest.
        timeout_seconds: for the slowest process.

    Raises:
        RuntimeError: a process failed; the message is its own, on all of them.
    """
    step = f"step {directory.name}"
    names = json.loads(
        _agreed(
            peers,
            f"commit of {step}",
            _tried(lambda: committed() or ""),
            lambda texts: json.dumps(digest.names(directory)),
            timeout_seconds,
        )
    )
    share = names[peers.index :: peers.count]

    def write(texts: list[str]) -> str:
        digests = {name: one for text in texts for name, one in json.loads(text).items()}
        digest.write_manifest(directory, extra, digests)
        return ""

    own = _tried(lambda: json.dumps(digest.file_digests(directory, share)))
    _agreed(peers, f"digests of {step}", own, write, timeout_seconds)


def check_step(peers: Peers, directory: Path, timeout_seconds: float) -> dict[str, Any]:
    """Returns the manifest of a step, every file of which some process has read and found whole.

    Raises:
        CorruptionError: one is damaged; all processes raise the same.
    """

    def look() -> str:
        digest.check(directory, share=(peers.index, peers.count))
        return ""

    key, damage = f"check of step {directory.name}", ""
    try:
        look()
    except CorruptionError as error:
        damage = str(error)
    first = peers.decide(key, damage, lambda texts: next(filter(None, texts), ""), timeout_seconds)
    if first:
        raise CorruptionError(first)
    return digest.read_manifest(directory)


def _tried(do: Callable[[], str]) -> tuple[str, str]:
    """Returns (what `do` returns, ""), or ("", what went wrong)."""
    try:
        return do(), ""
    except Exception as error:  # of whatever kind: the others wait for the answer
        return "", (str(error).strip().splitlines() or [type(error).__name__])[0]


def _agreed(
    peers: Peers,
    key: str,
    own: tuple[str, str],
    decide: Callable[[list[str]], str],
    timeout_seconds: float,
) -> str:
    """Returns what process 0 makes of all results; RuntimeError on all where one has none."""

    def merge(texts: list[str]) -> str:
        results = [json.loads(text) for text in texts]
        for index, (_, error) in enumerate(results):
            if error:
                where = f"{peers.name(index)}: " if peers.count > 1 else ""
                return json.dumps(["", where + error])
        return json.dumps(_tried(lambda: decide([result for result, _ in results])))

    result, error = json.loads(peers.decide(key, json.dumps(own), merge, timeout_seconds))
    if error:
        raise RuntimeError(error)
    return result
