"""Joint operations of all processes of a job: an error on one process is raised on all."""

import json
from collections.abc import Callable
from typing import Any

from palmscale.cluster.agree import Peers
from palmscale.errors import CorruptionError, UserError

ALONE = Peers(["localhost"], index=0)
_MESSAGE_CHARACTERS = 1 << 19  # gRPC takes messages of 4 MiB
_KINDS: dict[str, type[Exception]] = {"CorruptionError": CorruptionError, "UserError": UserError}


def led(peers: Peers, key: str, work: Callable[[], Any], timeout_seconds: float) -> Any:
    """Runs `work` on process 0 and returns its JSON value on all processes; see `jointly`."""
    return jointly(peers, key, lambda: None, lambda _: work(), timeout_seconds)


def jointly(
    peers: Peers,
    key: str,
    work: Callable[[], Any],
    merge: Callable[[list[Any]], Any],
    timeout_seconds: float,
) -> Any:
    """Runs `work` on each process, merges the results on process 0, and returns that on all.

    `merge` takes the results by process index; both functions return JSON values. All processes
    must call this, in the same order for each key. An error on one process is raised on all, with
    that process's name: CorruptionError and UserError keep their type, anything else becomes a
    RuntimeError. With a single process, errors are raised unchanged.

    Raises:
        HostLost: a process did not respond in time.
    """
    if peers.count == 1:
        return merge([work()])

    def decide(texts: list[str]) -> str:
        answers = [json.loads(text) for text in texts]
        for index, answer in enumerate(answers):
            if "error" in answer:
                return json.dumps(answer | {"of": peers.name(index)})
        return json.dumps(_answer(lambda: merge([answer["value"] for answer in answers])))

    answer = json.loads(peers.decide(key, json.dumps(_answer(work)), decide, timeout_seconds))
    if "error" not in answer:
        return answer["value"]
    kind = _KINDS.get(answer["kind"], RuntimeError)
    raise kind(f"{answer['error']} ({answer.get('of', peers.name(0))})")


def _answer(work: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": work()}
    except Exception as error:
        kind = "CorruptionError" if isinstance(error, CorruptionError) else "UserError"
        kind = kind if isinstance(error, UserError) else type(error).__name__
        return {"error": str(error) or kind, "kind": kind}


def shared_text(peers: Peers, key: str, read: Callable[[], str], timeout_seconds: float) -> str:
    """Returns the text, of any length, that process 0 reads, on all processes; see `jointly`."""
    pieces: list[str] = []

    def count() -> int:
        text = read()
        starts = range(0, max(1, len(text)), _MESSAGE_CHARACTERS)
        pieces.extend(text[start : start + _MESSAGE_CHARACTERS] for start in starts)
        return len(pieces)

    for number in range(led(peers, key, count, timeout_seconds)):
        piece = peers.broadcast(f"{key}, text", pieces[number] if peers.index == 0 else None)
        if peers.index != 0:
            pieces.append(piece)
    return "".join(pieces)
