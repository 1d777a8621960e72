"""What a run consumed and computed, step by step, so that two runs can be compared afterwards."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from palmscale.checkpoint.fingerprint import fingerprint
from palmscale.checkpoint.summary import summarize
from palmscale.data.stream import Batch


class StepLog:
    """Appends a line of JSON to a file for each state and batch; without a file it does nothing.

    A step that is rerun after a kill is logged again. Logging a batch waits for the devices. All
    processes take part; the one that leads writes.
    """

    def __init__(self, path: str | None, *, seed: int, leads: bool) -> None:
        self._path = None if path is None else Path(path)
        self._seed, self._leads = seed, leads

    def state(self, step: int, state: Any) -> None:
        """Logs the state that a run resumes from."""
        if self._path is not None:
            arrays = {name: array["fingerprint"] for name, array in summarize(state).items()}
            self._write({"restored": step, "arrays": arrays})

    def batch(self, step: int, batch: Batch) -> None:
        """Logs the batch of a step, and the key of its randomness."""
        if self._path is not None:
            key = jax.random.fold_in(jax.random.key(self._seed), step)
            bits = jax.random.key_data(key).tolist()
            self._write({"step": step, "batch": fingerprint(batch), "key": bits})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._leads:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
