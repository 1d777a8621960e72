"""The open requests: who waits for which sequence, and who may still come in.

Everything here runs in the event loop; the decode thread reaches it through `call_soon_threadsafe`.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self

from palmscale.errors import UserError
from palmscale.infer.request import Output, Request
from palmscale.serve.decode_thread import DecodeThread
from palmscale.serve.guides import Form
from palmscale.serve.limits import Limits
from palmscale.serve.metrics import Metrics
from palmscale.serve.refusal import Refusal
from palmscale.serve.served import Served

_RETRY_SECONDS = 1
_RETRY_LOADING_SECONDS = 5


class Dispatcher:
    """Hands sequences to the decode thread, and its outputs to whoever waits for them.

    Args:
        load: returns what is served; runs in the decode thread.
        limits: of the server.
        metrics: that count.
        opened: is called once the model is loaded.
        closed: is called once the decode thread has ended, for whatever reason.
        share: gives orders to the other processes of a job; see `DecodeThread`.
    """

    def __init__(
        self,
        load: Callable[[], Served],
        *,
        limits: Limits,
        metrics: Metrics,
        opened: Callable[[Served], None] = lambda served: None,
        closed: Callable[[], None] = lambda: None,
        share: Callable[[str], object] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.metrics, self._limits = metrics, limits
        self._opened, self._closed = opened, closed
        self._served: Served | None = None
        self._is_over = False
        self.failure: BaseException | None = None
        self.draining = False
        self._tickets = itertools.count()
        self._waiting: dict[int, tuple[Opened, int]] = {}  # by ticket
        self._thread = DecodeThread(load, self, loop.call_soon_threadsafe, share=share)
        self._thread.start()

    @property
    def served(self) -> Served:
        """Returns what is served.

        Raises:
            Refusal: nothing is, at the moment or any more; 503, or 500 after a failure.
        """
        if self.draining:
            raise Refusal(
                503,
                "the server is shutting down; ask another one.",
                code="shutting_down",
                retry_after_seconds=_RETRY_LOADING_SECONDS,
            )
        if self.failure is not None or self._is_over:
            raise _failed()
        if self._served is None:
            raise Refusal(
                503,
                "the model is being loaded; try again later.",
                code="loading",
                retry_after_seconds=_RETRY_LOADING_SECONDS,
            )
        return self._served

    @property
    def open_sequences(self) -> int:
        """Returns how many sequences are running or waiting."""
        return len(self._waiting)

    def open(self, requests: Sequence[tuple[Request, Form | None]]) -> "Opened":
        """Submits the sequences of one request, each with the form that its guide keeps to.

        Leaving the result, which is a context, gives up what is not finished.

        Raises:
            Refusal: too many wait already, 429; or see `served`.
        """
        served = self.served
        if len(self._waiting) + len(requests) > served.slots + self._limits.waiting_sequences:
            raise Refusal(
                429,
                f"{len(self._waiting)} sequences are running or waiting; try again later.",
                code="queue_full",
                retry_after_seconds=_RETRY_SECONDS,
            )
        opened = Opened(self)
        for index, (request, form) in enumerate(requests):
            ticket = next(self._tickets)
            self._waiting[ticket] = (opened, index)
            opened.tickets[index] = ticket
            self._thread.submit(ticket, request, form)
        return opened

    def cancel(self, ticket: int) -> None:
        """Gives a sequence up."""
        if self._waiting.pop(ticket, None) is not None:
            self._thread.cancel(ticket)

    def stop(self, timeout_seconds: float) -> None:
        """Ends the decode thread."""
        self._thread.stop(timeout_seconds)

    def loaded(self, served: Served) -> None:
        """Opens the server."""
        self._served = served
        self.metrics.watch(served)
        self._opened(served)

    def outputs(self, outputs: Sequence[tuple[int, Output]]) -> None:
        """Hands outputs on."""
        for ticket, output in outputs:
            if ticket not in self._waiting:  # given up meanwhile
                continue
            opened, index = self._waiting[ticket]
            if output.finished is not None:
                del self._waiting[ticket]
            opened.put(index, output)

    def refused(self, ticket: int, error: UserError) -> None:
        """Hands a request's error on."""
        if found := self._waiting.pop(ticket, None):
            found[0].put(found[1], error)

    def ended(self, error: BaseException | None) -> None:
        """Ends every open request."""
        self._is_over, self.failure = True, error
        waiting, self._waiting = self._waiting, {}
        for opened, index in waiting.values():
            opened.put(index, _failed())
        self._closed()


def _failed() -> Refusal:
    return Refusal(500, "the server failed and is shutting down; see its log.", code="failed")


class Opened:
    """The sequences of one request while they are decoded."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.tickets: dict[int, int] = {}  # of the sequences that are not finished
        self._outputs: asyncio.Queue[tuple[int, Output | BaseException]] = asyncio.Queue()
        self._since = time.monotonic()
        self._last: dict[int, float | None] = {}  # when each sequence had its last tokens
        self.first_token_seconds: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for index in list(self.tickets):
            self.cancel(index)

    def cancel(self, index: int) -> None:
        """Gives one sequence up: nothing more comes of it."""
        if (ticket := self.tickets.pop(index, None)) is not None:
            self._dispatcher.cancel(ticket)

    def put(self, index: int, output: Output | BaseException) -> None:
        """Takes what the decode thread has of a sequence."""
        if isinstance(output, Output):
            self._measure(index, output)
        self._outputs.put_nowait((index, output))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Output]]:
        """Yields each output with the index of its sequence, until all are finished.

        Raises:
            Refusal, UserError: a sequence cannot be had, or the server failed.
        """
        while self.tickets:
            index, output = await self._outputs.get()
            if isinstance(output, BaseException):
                raise output
            if index not in self.tickets:
                continue
            if output.finished is not None:
                del self.tickets[index]
            yield index, output

    def _measure(self, index: int, output: Output) -> None:
        metrics, now = self._dispatcher.metrics, time.monotonic()
        if index not in self._last:
            metrics.reused_tokens.inc(output.reused_tokens)
        last = self._last.setdefault(index, None)
        if not output.tokens:
            return
        metrics.generated_tokens.inc(len(output.tokens))
        if self.first_token_seconds is None:
            self.first_token_seconds = now - self._since
            metrics.first_token_seconds.observe(self.first_token_seconds)
        if last is not None:
            metrics.gap_seconds.observe(now - last)
        self._last[index] = now
