"""Small text messages between processes over JAX's coordination service, without collectives.

Only this file uses the service's private client; a test guards the methods that it needs.
"""

import collections
import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from palmscale.errors import HostLost, UserError

# Where JAX's preemption service tells all processes that one of them has got a SIGTERM.
_PREEMPTED = "RECEIVED_PREEMPTION_NOTICE"
_BROADCASTS_KEPT = 256  # texts in process 0's memory
_LISTEN_SECONDS = 5.0
_FOREVER_SECONDS = 86_400.0
_SLACK_SECONDS = 10.0  # extra time that the others wait for process 0's decision


class Peers:
    """The processes of a job and their host names; this process has the given `index`.

    With a single process, every method returns immediately.
    """

    def __init__(self, hosts: Sequence[str], *, index: int) -> None:
        self.hosts, self.index, self.count = list(hosts), index, len(hosts)
        self._client = _client() if self.count > 1 else None
        self._calls: collections.Counter[str] = collections.Counter()

    def name(self, index: int) -> str:
        """Returns the process's name for messages: `process 2 on tpu-worker-2`."""
        return f"process {index} on {self.hosts[index]}"

    def gather(self, key: str, text: str, timeout_seconds: float) -> list[str]:
        """Returns the texts of all processes, by index; see `decide`."""
        return json.loads(self.decide(key, text, json.dumps, timeout_seconds))

    def decide(
        self, key: str, text: str, decide: Callable[[list[str]], str], timeout_seconds: float
    ) -> str:
        """Returns process 0's decision, computed by `decide` from the texts of all processes.

        All processes must call this, in the same order for each key.

        Raises:
            HostLost: some processes did not respond in time; they are named.
        """
        if self._client is None:
            return decide([text])
        self._calls[key] += 1
        path = f"palmscale/{key}/{self._calls[key]}"
        self._client.key_value_set(f"{path}/{self.index}", text)
        # Only process 0 reads the texts: if each of 1,536 hosts read all the others, they would
        # send two million requests.
        if self.index == 0:
            texts, missing = self._collect(path, timeout_seconds)
            if not missing and self._calls[key] > 1:
                # Every process here has read the previous decision. Old entries would fill process
                # 0's memory in a long run.
                self._client.key_value_delete(f"palmscale/{key}/{self._calls[key] - 1}/")
            verdict: dict[str, Any] = {"missing": missing, "failed": "process 0 failed"}
            try:
                verdict = {"missing": missing, "decision": None if missing else decide(texts)}
            finally:
                self._client.key_value_set(f"{path}/all", json.dumps(verdict))
        else:
            found = self._get(f"{path}/all", timeout_seconds + _SLACK_SECONDS)
            verdict = {"missing": [0]} if found is None else json.loads(found)
        if verdict["missing"]:
            named = ", ".join(self.name(index) for index in verdict["missing"][:8])
            raise HostLost(
                f"{named} did not reach the {key} within {timeout_seconds:g} s; see that process's"
                " log"
            )
        if "failed" in verdict:
            raise HostLost(f"{self.name(0)} failed at the {key}; see its log")
        return verdict["decision"]

    def broadcast(
        self, key: str, text: str | None, waiting: Callable[[], None] = lambda: None
    ) -> str:
        """Returns process 0's text, as soon as it has one.

        All processes must call this, in the same order for each key; the others wait forever.

        Args:
            key: of the series of texts.
            text: process 0's; the others' is not read.
            waiting: called every few seconds while there is none.
        """
        if self._client is None:
            return text or ""
        number = self._calls[key]
        self._calls[key] += 1
        series = f"palmscale/{key}"
        if number and number % _BROADCASTS_KEPT == 0:
            # Whoever comes here has read all before.
            self.gather(f"{key} so far", "", _FOREVER_SECONDS)
            if self.index == 0:
                self._client.key_value_delete(f"{series}/{number // _BROADCASTS_KEPT - 1}/")
        path = f"{series}/{number // _BROADCASTS_KEPT}/{number}"
        if self.index == 0:
            self._client.key_value_set(path, text or "")
            return text or ""
        while (found := self._get(path, _LISTEN_SECONDS)) is None:
            waiting()
        return found

    def _collect(self, key: str, timeout_seconds: float) -> tuple[list[str], list[int]]:
        deadline = time.monotonic() + timeout_seconds
        answers = [
            self._get(f"{key}/{index}", max(deadline - time.monotonic(), 0.1))
            for index in range(self.count)
        ]
        missing = [index for index, answer in enumerate(answers) if answer is None]
        return [answer or "" for answer in answers], missing

    def _get(self, key: str, timeout_seconds: float) -> str | None:
        try:
            return self._client.blocking_key_value_get(key, int(timeout_seconds * 1000))
        except Exception as error:
            if "DEADLINE_EXCEEDED" in str(error):
                return None
            raise

    def publish(self, board: str, text: str) -> None:
        """Publishes this process's text on a board, replacing its previous one."""
        if self._client is not None:
            self._client.key_value_set(f"palmscale/{board}/{self.index}", text, True)

    def read(self, board: str) -> dict[int, str]:
        """Returns the texts on a board, by process; does not wait."""
        if self._client is None:
            return {}
        with contextlib.suppress(Exception):  # the client raises if a board is empty
            found = self._client.key_value_dir_get(f"palmscale/{board}/")
            return {int(key.rpartition("/")[2]): text for key, text in found}
        return {}

    def is_preempted(self) -> bool:
        """Returns whether a process of this job of several has got a SIGTERM; does not wait."""
        if self._client is not None:
            with contextlib.suppress(Exception):  # the client raises if there is no such key
                return bool(self._client.key_value_try_get(_PREEMPTED))
        return False


def check_alike(peers: Peers, facts: Mapping[str, str], timeout_seconds: float) -> None:
    """Checks that all processes have the same facts: name to value, such as a digest.

    Raises:
        UserError: a process differs from process 0; the message names it and the differences.
        HostLost: a process did not respond in time.
    """

    def compare(texts: list[str]) -> str:
        return _disagreement(peers, [json.loads(text) for text in texts])

    if message := peers.decide("agreement", json.dumps(dict(facts)), compare, timeout_seconds):
        raise UserError(message)


def _disagreement(peers: Peers, stated: Sequence[Mapping[str, str]]) -> str:
    for index, theirs in enumerate(stated):
        different = {
            name: (stated[0].get(name), theirs.get(name))
            for name in sorted(stated[0].keys() | theirs.keys())
            if stated[0].get(name) != theirs.get(name)
        }
        if different:
            listing = ", ".join(f"{name}: {a} and {b}" for name, (a, b) in different.items())
            return (
                f"{peers.name(0)} and {peers.name(index)} differ in {listing}; all hosts must be"
                " the same: install, copy or configure the second like the first"
            )
    return ""


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client
