"""Metric writers, of which some may fail: TensorBoard and Weights & Biases are extras."""

import importlib
import itertools
import math
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import place

_WANDB_TRIES, _WANDB_PAUSE_SECONDS = 6, 2.0
_PAUSE_PER_FAILING_SECOND = 10.0


class MetricWriter(Protocol):
    """A destination for the metrics of each step."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of `step`."""

    def flush(self) -> None:
        """Makes everything written so far durable."""

    def truncate_from(self, step: int) -> None:
        """Drops `step` and all later steps, because training repeats them."""

    def close(self) -> None:
        """Finishes writing."""


class Writers:
    """Several writers as one, none of which can end a run.

    A writer that raises is reported in one warning. It is tried again as soon as its failures have
    taken at most a tenth of the time.
    """

    def __init__(
        self, writers: Sequence[MetricWriter], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._writers = [_Retried(writer, clock) for writer in writers]

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Passes the metrics of `step` to every writer."""
        for writer in self._writers:
            writer.write(step, metrics)

    def flush(self) -> None:
        """Flushes every writer."""
        self._each("flush")

    def truncate_from(self, step: int) -> None:
        """Makes every writer drop `step` and all later steps."""
        self._each("truncate_from", step)

    def close(self) -> None:
        """Closes every writer."""
        self._each("close")

    def _each(self, method: str, *arguments: Any) -> None:
        for writer in self._writers:
            writer.attempt(method, *arguments)


class _Retried:
    def __init__(self, writer: MetricWriter, clock: Callable[[], float]) -> None:
        self._writer, self._clock = writer, clock
        self._is_failing, self._next_try = False, -math.inf

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._clock() < self._next_try or not self.attempt("write", step, metrics):
            return
        if self._is_failing:
            self._is_failing = False
            log.warn(f"{self._name} is written again, from step {step} on.")

    def attempt(self, method: str, *arguments: Any) -> bool:
        began = self._clock()
        try:
            getattr(self._writer, method)(*arguments)
            return True
        except Exception as error:  # of any kind: a metric must never end a run
            now = self._clock()
            self._next_try = now + _PAUSE_PER_FAILING_SECOND * (now - began)
            if not self._is_failing:
                log.warn(
                    f"{self._name} failed and will be tried again: {type(error).__name__}: {error}"
                )
            self._is_failing = True
            return False

    @property
    def _name(self) -> str:
        return type(self._writer).__name__


class TensorBoard:
    """Writes TensorBoard event files to `directory` with tensorboardX, without TensorFlow."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = str(directory)
        self._package = _extra_package("tensorboardX", "tensorboard")
        self._purge_step: int | None = None
        self._events = None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one scalar per metric, at the `wall_time` among them.

        TensorBoard holds the time of each event; as a scalar, a float32, it would be off by
        minutes.
        """
        if self._events is None:
            # The default name ends in seconds and would overwrite a file of the same second.
            self._events = self._package.SummaryWriter(
                self._directory, purge_step=self._purge_step, filename_suffix=f".{time.time_ns()}"
            )
        scalars = dict(metrics)
        wall_time = scalars.pop("wall_time", None)
        for name, value in scalars.items():
            self._events.add_scalar(name, float(value), step, walltime=wall_time)

    def flush(self) -> None:
        """Does nothing: the package flushes in its own thread, which this would disturb."""

    def truncate_from(self, step: int) -> None:
        """Makes TensorBoard ignore what earlier files hold for `step` and later."""
        self.close()
        self._purge_step = step

    def close(self) -> None:
        """Closes the event file; a later write starts another one."""
        if self._events is not None:
            self._events.close()
            self._events = None


class WeightsAndBiases:
    """Logs to a Weights & Biases run, and to the same run after a resume.

    <directory>/wandb_run_id holds the run's id. The run is opened at the first write, so that a
    network outage does not stop training. If `directory` is in an object store, the package's own
    files stay on this machine's disk.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | ObjectPath,
        *,
        project: str,
        name: str | None = None,
        mode: Literal["online", "offline"] = "online",
    ) -> None:
        if mode not in ("online", "offline"):
            raise UserError(
                f"Weights & Biases has no mode {mode!r}; expected 'online' or 'offline'."
            )
        self._package = _extra_package("wandb", "wandb")
        self._directory = place(directory)
        self._files = self._directory
        if isinstance(self._directory, ObjectPath):
            if mode == "offline":
                raise UserError(
                    f"Weights & Biases cannot be offline with the workdir {directory}: it needs a"
                    " folder on a disk to sync from later; use the mode 'online' or a workdir on a"
                    " disk."
                )
            self._files = Path(tempfile.mkdtemp(prefix="palmscale-wandb-"))
        self._settings = {"project": project, "name": name, "mode": mode}
        self._run = None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics with `step` as their axis, because W&B's own counter cannot go back."""
        if self._run is None:
            self._run = self._opened_run()
        self._run.log({"step": step} | {name: float(value) for name, value in metrics.items()})

    def flush(self) -> None:
        """Does nothing: the package uploads on its own."""

    def truncate_from(self, step: int) -> None:
        """Does nothing: logged steps cannot be removed, and the same steps are logged again."""

    def close(self) -> None:
        """Finishes the run; a later write resumes it."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _opened_run(self) -> Any:
        id_path = self._directory / "wandb_run_id"
        self._directory.mkdir(parents=True, exist_ok=True)
        if not id_path.exists():
            id_path.write_text(secrets.token_hex(4), encoding="utf-8")
        # By default it captures stdout and stderr, which breaks the progress line.
        settings = self._package.Settings(console="off", silent=True)
        # Offline there is no run to look up: parts with the same id are joined when synced.
        resume = "allow" if self._settings["mode"] == "online" else None
        run = self._initialized(
            dir=str(self._files),
            id=id_path.read_text(encoding="utf-8"),
            resume=resume,
            settings=settings,
            **self._settings,
        )
        run.define_metric("*", step_metric="step")
        if url := getattr(run, "url", None):  # none offline
            log.say(f"Weights & Biases: {url}")
        return run

    def _initialized(self, **fields: Any) -> Any:
        """Opens the run; retries while a recently killed process still holds it."""
        for attempt in itertools.count(1):
            try:
                return self._package.init(**fields)
            except Exception as error:
                if "in use" not in str(error) or attempt == _WANDB_TRIES:
                    raise
                time.sleep(_WANDB_PAUSE_SECONDS)


def _extra_package(package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"the package {package} is not installed, and the metric writer needs it; run: pip"
            f" install 'palmscale[{extra}]'"
        ) from error
