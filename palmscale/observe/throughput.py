"""Throughput of a run: tokens per second, model FLOPs utilization, time spent waiting for data."""

import contextlib
import time
from collections.abc import Callable, Iterator

# The vendor's dense bfloat16 FLOP/s of one JAX device, by prefix of its `device_kind`; the longest
# matching prefix applies. Sources: Google Cloud's pages on TPU versions (v5e and v6e report
# themselves as "lite") and NVIDIA's data sheets, whose figures with sparsity are twice these.
_PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,  # a chip is two devices
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops_per_device(device_kind: str) -> float | None:
    """Returns the vendor's dense bfloat16 FLOP/s of a JAX device, or None if it is not known."""
    fitting = [name for name in _PEAK_FLOPS if device_kind.startswith(name)]
    return _PEAK_FLOPS[max(fitting, key=len)] if fitting else None


class Throughput:
    """Counts tokens, time and input wait since the last report.

    `peak_flops` is the total FLOP/s of all devices. MFU is reported only if `peak_flops` and
    `flops_per_token` are given. `clock` returns seconds.
    """

    def __init__(
        self,
        *,
        flops_per_token: float | None = None,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flops_per_token = flops_per_token
        self._peak_flops = peak_flops
        self._clock = clock
        self._start()

    def _start(self) -> None:
        self._started = self._clock()
        self._tokens = 0
        self._waited_seconds = 0.0

    def add(self, tokens: int) -> None:
        """Counts the tokens of completed steps, over all hosts."""
        self._tokens += tokens

    @contextlib.contextmanager
    def waiting_for_input(self) -> Iterator[None]:
        """Counts the time inside the `with` as time spent waiting for the next batch."""
        began = self._clock()
        try:
            yield
        finally:
            self._waited_seconds += self._clock() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time inside the `with`, for work such as evaluation."""
        began = self._clock()
        try:
            yield
        finally:
            self._started += self._clock() - began

    def report(self) -> dict[str, float]:
        """Returns `tokens_per_second`, `input_wait_fraction` and, if known, `mfu`, and resets.

        Returns an empty dict if no time has passed.
        """
        seconds = self._clock() - self._started
        if seconds <= 0:
            return {}
        rates = {
            "tokens_per_second": self._tokens / seconds,
            "input_wait_fraction": min(1.0, self._waited_seconds / seconds),
        }
        if self._flops_per_token and self._peak_flops:
            rates["mfu"] = rates["tokens_per_second"] * self._flops_per_token / self._peak_flops
        self._start()
        return rates
