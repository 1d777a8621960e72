"""The learning rate of each step, computed beside the train step for the run's metrics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

_BLOCK = 1024  # Counts evaluated at a time: one per step would wait for the device at each step.


class LearningRate:
    """The rate that each update uses, by the optimizer's own count of updates.

    A step that is skipped is no update, so the count is not the number of the step. The rate is
    unknown, and left out, if the optimizer has no field `learning_rate`, or if its state does not
    hold one count.
    """

    def __init__(self, optimizer: Any) -> None:
        self._schedule = schedule_of(optimizer)
        self._count: int | None = None
        self._block: tuple[int, np.ndarray] | None = None

    def begin(self, optimizer_state: Any) -> None:
        """Continues from the count in a state, whose computation this waits for."""
        self._count = None if self._schedule is None else updates_done(optimizer_state)

    def metrics(self, *, skipped: bool) -> dict[str, float]:
        """Returns the `learning_rate` of the next step, or nothing if it is unknown."""
        if self._count is None:
            return {}
        rate = self._rate(self._count)
        self._count += not skipped
        return {"learning_rate": rate}

    def _rate(self, count: int) -> float:
        first = count - count % _BLOCK
        if self._block is None or self._block[0] != first:
            counts = np.arange(first, first + _BLOCK, dtype=np.int32)
            self._block = first, np.asarray(jax.jit(jax.vmap(self._schedule))(counts))
        return float(self._block[1][count - first])


def schedule_of(optimizer: Any) -> Callable[[jax.Array], Any] | None:
    """Returns the optimizer's schedule, a function of the count; None if it has none."""
    rate = getattr(optimizer, "learning_rate", None)
    if isinstance(rate, (int, float)):
        return lambda count: jnp.full_like(count, rate, jnp.float32)
    return rate if callable(rate) else None


def updates_done(optimizer_state: Any) -> int | None:
    """Returns the number of updates that an optax state counts; None without one such number."""
    found = optax.tree.get_all_with_path(optimizer_state, "count")
    counts = {int(count) for count in jax.device_get([c for _, c in found if jnp.ndim(c) == 0])}
    return counts.pop() if len(counts) == 1 else None
