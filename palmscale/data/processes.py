"""Work spread over processes of this machine: a function, items, and results as they come."""

import concurrent.futures
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

Count = Callable[[int], None]  # told how much more is done
_POLL_SECONDS = 0.2


class Executor(Protocol):
    """Whoever runs the parts of a build."""

    def each(
        self, function: Callable[[Any, Count], Any], items: Sequence[Any], count: Count
    ) -> Iterator[Any]:
        """Yields `function(item, count)` of each item, in any order.

        The function and the items can be pickled. An exception ends the others and is raised.
        """


class LocalProcesses:
    """Runs in up to `processes` fresh processes; in this one where there is only one to use.

    `modules` are imported in each first: those that register SeqIO tasks, for example.
    """

    def __init__(self, processes: int, modules: Sequence[str] = ()):
        self._processes, self._modules = processes, tuple(modules)

    def each(
        self, function: Callable[[Any, Count], Any], items: Sequence[Any], count: Count
    ) -> Iterator[Any]:
        """Yields results as they come; see `Executor`.

        Raises RuntimeError where a process died.
        """
        processes = min(self._processes, len(items))
        if processes <= 1:
            yield from (function(item, count) for item in items)
            return
        # Not forked: JAX and TensorFlow have threads, whose locks a child would find held.
        context = multiprocessing.get_context("spawn")
        counter, stop = context.Value("q", 0), context.Event()
        pool = concurrent.futures.ProcessPoolExecutor(
            processes, context, initializer=_begin, initargs=(counter, stop, self._modules)
        )
        counted = 0
        try:
            pending = {pool.submit(_call, function, item) for item in items}
            while pending:
                done, pending = concurrent.futures.wait(
                    pending, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED
                )
                now = counter.value
                if now > counted:
                    count(now - counted)
                    counted = now
                for future in done:
                    yield future.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise RuntimeError(
                "a process of the build was killed, perhaps for want of memory; run the same"
                " command again, which keeps what is finished, or with fewer --processes"
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


class _Stopped(Exception):
    pass


_shared: list[Any] = []  # in a worker: the counter and the event that says stop


def _begin(counter: Any, stop: Any, modules: Sequence[str]) -> None:
    _shared[:] = counter, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent stops
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for module in modules:
        importlib.import_module(module)


def _end_with_parent() -> None:
    # A worker whose parent was killed would wait for ever on a queue that it holds open itself.
    multiprocessing.parent_process().join()
    os._exit(1)


def _call(function: Callable[[Any, Count], Any], item: Any) -> Any:
    return function(item, _count)


def _count(more: int) -> None:
    counter, stop = _shared
    if stop.is_set():
        raise _Stopped
    with counter.get_lock():
        counter.value += more
