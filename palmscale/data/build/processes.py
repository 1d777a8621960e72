"""Work distributed over processes of this machine."""

import concurrent.futures
import contextlib
import importlib
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from palmscale.observe import log
from palmscale.observe.load_noise import without_load_noise

# Called with the amount of further progress; 0: the work goes on, with nothing to count yet.
Count = Callable[[int], None]
_POLL_SECONDS = 0.2


class Executor(Protocol):
    """Runs the parts of a build."""

    def each(
        self, function: Callable[[Any, Count], Any], items: Sequence[Any], count: Count
    ) -> Iterator[Any]:
        """Yields `function(item, count)` of each item, in any order.

        Function and items can be pickled. An exception ends the other calls and is raised.
        """


class LocalProcesses:
    """An executor with up to `processes` worker processes; 1 means the calling process.

    Workers import `modules` first, for example those that register SeqIO tasks. They do not import
    the script that is running, which therefore needs no `if __name__ == "__main__"`. If the work
    contains a class or function that this script defines, the calling process does it alone.
    """

    def __init__(self, processes: int, modules: Sequence[str] = ()):
        self._processes, self._modules = processes, tuple(modules)

    def each(
        self, function: Callable[[Any, Count], Any], items: Sequence[Any], count: Count
    ) -> Iterator[Any]:
        """Yields results as they become available; see `Executor`.

        Raises:
            RuntimeError: a worker process died.
        """
        processes = min(self._processes, len(items))
        if processes > 1 and (name := _defined_in_script((function, items))):
            log.warn(
                f"{name} is defined in the running script, which worker processes cannot import: "
                f"1 process does the work, not {processes}. Move {name} to a module of its own."
            )
            processes = 1
        if processes <= 1:
            yield from (function(item, count) for item in items)
            return
        # Not forked: a child would inherit the held locks of the threads of JAX and TensorFlow.
        context = multiprocessing.get_context("spawn")
        counter, stop = context.Array("q", 2), context.Event()
        pool = concurrent.futures.ProcessPoolExecutor(
            processes, context, initializer=_begin, initargs=(counter, stop, self._modules)
        )
        counted = calls = 0
        try:
            with _script_hidden():  # `submit` starts the processes
                pending = {pool.submit(_call, function, item) for item in items}
            while pending:
                done, pending = concurrent.futures.wait(
                    pending, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED
                )
                now, calls_now = counter[:]
                if calls_now > calls:
                    count(now - counted)
                    counted, calls = now, calls_now
                for future in done:
                    yield future.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise RuntimeError(
                "a worker process was killed, perhaps because memory ran out; start again, with"
                " fewer processes if necessary: finished work is kept."
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """Keeps the processes that start meanwhile from running the script that is `__main__`.

    multiprocessing would have each of them run it up to its `if __name__ == "__main__"`, and from
    top to bottom if it has none.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


class _FoundInScript(Exception):
    pass


class _ScriptDetector(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        is_named = isinstance(value, (type, types.FunctionType))
        if is_named and value.__module__ == "__main__":
            raise _FoundInScript(value.__qualname__)
        return NotImplemented


def _defined_in_script(work: Any) -> str | None:
    """Returns the name of a class or function of `__main__` that `work` contains; None: none."""
    try:
        _ScriptDetector(io.BytesIO()).dump(work)
    except _FoundInScript as found:
        return str(found)
    return None


class _Stopped(Exception):
    pass


# In a worker: amount and number of calls of `Count`, and the event that asks it to stop.
_shared: list[Any] = []


def _begin(counter: Any, stop: Any, modules: Sequence[str]) -> None:
    _shared[:] = counter, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent stops
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for module in modules:
        with without_load_noise():
            importlib.import_module(module)


def _end_with_parent() -> None:
    # A worker whose parent was killed would wait forever on a queue that it keeps open itself.
    multiprocessing.parent_process().join()
    os._exit(1)


def _call(function: Callable[[Any, Count], Any], item: Any) -> Any:
    return function(item, _count)


def _count(more: int) -> None:
    counter, stop = _shared
    if stop.is_set():
        raise _Stopped
    with counter.get_lock():
        counter[0] += more
        counter[1] += 1
