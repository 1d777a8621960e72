"""Tasks of EleutherAI's lm-eval: found by name, loaded once, and evaluated in process."""

import contextlib
import dataclasses
import functools
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palmscale.errors import UserError
from palmscale.evals.candidate import Candidate
from palmscale.run.nearest import nearest
from palmscale.run.place import set_environment

_SEED, _NUMPY_SEED = 0, 1234  # lm-eval's own, so that few-shot examples are those of its command
_ERROR_CHARACTERS = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class LmEvalTasks:
    """Tasks with their data, to be evaluated any number of times.

    Attributes:
        tasks: as lm-eval's TaskManager loads them.
        num_fewshot: examples before each question; None: as each task has it. A task that is
            defined without any keeps to that.
        limit: documents of each task: a number, or a share below 1; None: all.
    """

    tasks: Mapping[str, Any]
    num_fewshot: int | None = None
    limit: float | None = None

    def __call__(self, candidate: Candidate) -> dict[str, float]:
        """Returns the metrics of a candidate as `eval/<task>/<metric>`.

        Where a task filters its answers in several ways, the filter follows: `eval/gsm8k/
        exact_match/strict-match`.
        """
        from lm_eval.evaluator import evaluate

        from palmscale.evals.lm_eval_model import CandidateLM

        for task in self.tasks["tasks"].values():
            self._set_fewshot(task)
        with _seeded():
            found = evaluate(
                lm=CandidateLM(candidate),
                task_dict=dict(self.tasks),
                limit=self.limit,
                bootstrap_iters=0,
                log_samples=False,
            )
        return _metrics(found["results"])

    def _set_fewshot(self, task: Any) -> None:
        own = task.get_config("num_fewshot")
        if own != 0 and self.num_fewshot is not None:
            task.set_config(key="num_fewshot", value=self.num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_NUMPY_SEED)


def load_tasks(
    names: Sequence[str],
    *,
    include_path: str | None = None,
    num_fewshot: int | None = None,
    limit: float | None = None,
) -> LmEvalTasks:
    """Returns tasks, groups and tags of lm-eval, with their data.

    Data that a task reads from local files is read without a network; data of the Hugging Face Hub
    is downloaded once.

    Args:
        names: of lm-eval, or of files in `include_path`.
        include_path: a folder of task files (yaml), which win over lm-eval's of the same name.
        num_fewshot: see `LmEvalTasks`, as for `limit`.

    Raises:
        UserError: lm-eval is not installed, there is no such task, its data cannot be read, or it
            would run what the model writes.
    """
    manager = _manager(names, include_path)
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    with _seeded():
        for name in names:
            part = _loaded(manager, name)
            if twice := loaded["tasks"].keys() & part["tasks"].keys():
                raise UserError(
                    f"the task {min(twice)} is asked for twice, once by {name}; name it once."
                )
            for kind, found in part.items():
                loaded[kind] |= found
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise UserError(f"the task {name} runs code that the model writes; leave it out.")
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"the task {name} needs more than text; leave it out.")
    return LmEvalTasks(tasks=loaded, num_fewshot=num_fewshot, limit=limit)


def _manager(names: Sequence[str], include_path: str | None) -> Any:
    """Returns a manager that knows all names; lm-eval's own tasks are looked for if need be."""
    task_manager = _task_manager()
    own: list[str] = []
    if include_path is not None:
        if not Path(include_path).is_dir():
            raise UserError(f"include_path={include_path} is not a folder; name one of task files.")
        manager = task_manager(include_path=include_path, include_defaults=False)
        own = manager.all_tasks
        if set(names) <= set(own):
            return manager
    manager = builtin_tasks()
    if wrong := [name for name in names if name not in {*own, *manager.all_tasks}][:1]:
        near = nearest(wrong[0], [*manager.all_tasks, *own])
        raise UserError(
            f"unknown task {wrong[0]}; "
            + (f"did you mean {near}?" if near else "`lm-eval ls tasks` lists them all.")
        )
    return task_manager(include_path=include_path) if own else manager


@functools.cache
def builtin_tasks() -> Any:
    """Returns lm-eval's TaskManager of its own tasks; it reads thousands of files, in seconds.

    Raises:
        UserError: lm-eval is not installed.
    """
    return _task_manager()()


def _task_manager() -> type:
    set_environment({"TQDM_DISABLE": "1"})  # read when lm-eval imports it
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            "evaluation tasks need the package lm-eval, which is not installed; run: pip install"
            " 'palmscale[eval]'"
        ) from error
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager


def _loaded(manager: Any, name: str) -> dict[str, dict[str, Any]]:
    try:
        return manager.load([name])
    except UserError:
        raise
    except Exception as error:  # of its data, its packages, or code of a task
        raise UserError(
            f"the task {name} cannot be loaded ({type(error).__name__}: {_line(error)}); install"
            " what it needs, check the network, or use local data."
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:_ERROR_CHARACTERS].rstrip(".")


def _metrics(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    found = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, comma, filter_name = key.partition(",")
            is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if not comma or not is_number or metric.endswith("_stderr"):
                continue
            suffix = "" if filter_name == "none" else f"/{filter_name}"
            found[f"eval/{task}/{metric}{suffix}"] = float(value)
    return found


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Seeds what tasks may draw from, so that all processes ask the same, and restores it."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(_SEED)
    np.random.seed(_NUMPY_SEED)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
