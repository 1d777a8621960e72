"""What the hosts tell one another, on JAX's coordination service: small texts, no collectives.

The only place that touches the service's private client; a test guards what is used of it.
"""

import collections
import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from palmscale.errors import HostLost, UserError

_SLACK_SECONDS = 10.0  # that the others wait for process 0 beyond what it waits for them


class Peers:
    """The processes of a job, by index, this one being `index`; each has its host's name.

    All of it answers at once where there is a single process.
    """

    def __init__(self, hosts: Sequence[str], *, index: int) -> None:
        self.hosts, self.index, self.count = list(hosts), index, len(hosts)
        self._client = _client() if self.count > 1 else None
        self._calls: collections.Counter[str] = collections.Counter()

    def name(self, index: int) -> str:
        """Returns what a person calls the process: `process 2 on tpu-worker-2`."""
        return f"process {index} on {self.hosts[index]}"

    def gather(self, key: str, text: str, timeout_seconds: float) -> list[str]:
        """Returns every process's text, by index; see `decide`."""
        return json.loads(self.decide(key, text, json.dumps, timeout_seconds))

    def decide(
        self, key: str, text: str, decide: Callable[[list[str]], str], timeout_seconds: float
    ) -> str:
        """Returns what process 0 makes of every process's text; all call it, in the same order.

        Raises:
            HostLost: some were not there in time; they are named.
        """
        if self._client is None:
            return decide([text])
        self._calls[key] += 1
        path = f"palmscale/{key}/{self._calls[key]}"
        self._client.key_value_set(f"{path}/{self.index}", text)
        # Process 0 reads for all: with every host reading every other, 1536 hosts would send two
        # million requests.
        if self.index == 0:
            texts, missing = self._collect(path, timeout_seconds)
            if not missing and self._calls[key] > 1:
                # Whoever came here has read the last answer. Left there, they would fill the memory
                # of process 0 in a long run.
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
                f"{named} did not come to the {key} within {timeout_seconds:g} s; that process's"
                " log tells where it stands"
            )
        if "failed" in verdict:
            raise HostLost(f"{self.name(0)} failed at the {key}; its log tells why")
        return verdict["decision"]

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
        """Puts this process's text on a board, in the place of its last one."""
        if self._client is not None:
            self._client.key_value_set(f"palmscale/{board}/{self.index}", text, True)

    def read(self, board: str) -> dict[int, str]:
        """Returns what is on a board, by process; does not wait."""
        if self._client is None:
            return {}
        with contextlib.suppress(Exception):  # a board that nobody wrote on is an error there
            found = self._client.key_value_dir_get(f"palmscale/{board}/")
            return {int(key.rpartition("/")[2]): text for key, text in found}
        return {}


def check_alike(peers: Peers, facts: Mapping[str, str], timeout_seconds: float) -> None:
    """Checks that every process states the same facts: name to value, such as a digest.

    Raises:
        UserError: one differs from process 0; it is named, with what differs.
        HostLost: one did not come.
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
            listing = "; ".join(f"{name}: {a} against {b}" for name, (a, b) in different.items())
            return (
                f"{peers.name(0)} and {peers.name(index)} differ in {listing} - all hosts need the"
                " same - install, copy or configure the second like the first"
            )
    return ""


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client
