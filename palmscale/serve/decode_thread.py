"""The one thread that owns the engine: it loads it, feeds it, and tells what comes of it."""

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from palmscale.errors import UserError
from palmscale.infer.request import Output, Request
from palmscale.serve.served import Served


class Listener(Protocol):
    """What the thread tells. `DecodeThread.tell` decides in which thread these run."""

    def loaded(self, served: Served) -> None:
        """The engine is ready."""

    def outputs(self, outputs: Sequence[tuple[int, Output]]) -> None:
        """A step is done; tickets with their outputs."""

    def refused(self, ticket: int, error: UserError) -> None:
        """The engine did not take a request."""

    def ended(self, error: BaseException | None) -> None:
        """The thread ends; an error: because of it."""


@dataclasses.dataclass(frozen=True)
class _Submit:
    ticket: int
    request: Request


@dataclasses.dataclass(frozen=True)
class _Cancel:
    ticket: int


class DecodeThread:
    """Decodes in a thread of its own; every method may be called from any other thread.

    Args:
        load: returns what is served; runs in the thread, so that the server answers meanwhile.
        listener: is told.
        tell: runs a function of the listener where that belongs, and soon; it raises RuntimeError
            once nobody listens.
    """

    def __init__(
        self,
        load: Callable[[], Served],
        listener: Listener,
        tell: Callable[[Callable[[], None]], object],
    ) -> None:
        self._load, self._listener, self._tell = load, listener, tell
        self._inbox: queue.SimpleQueue[_Submit | _Cancel | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._engine_ids: dict[int, int] = {}  # by ticket
        self._tickets: dict[int, int] = {}  # by the engine's id

    def start(self) -> None:
        """Starts to load."""
        self._thread.start()

    def submit(self, ticket: int, request: Request) -> None:
        """Asks for a request; its outputs carry the ticket."""
        self._inbox.put(_Submit(ticket, request))

    def cancel(self, ticket: int) -> None:
        """Gives a request up; one that has ended is ignored."""
        self._inbox.put(_Cancel(ticket))

    def stop(self, timeout_seconds: float) -> None:
        """Ends the thread after the step that is running."""
        self._inbox.put(None)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        error = None
        try:
            served = self._load()
            self._say(self._listener.loaded, served)
            while self._take(served, wait=not served.engine.busy):
                if served.engine.busy:
                    self._step(served)
        except BaseException as raised:  # whatever it is, clients and the main thread must know
            error = raised
        self._say(self._listener.ended, error)

    def _take(self, served: Served, *, wait: bool) -> bool:
        """Does what the inbox asks; returns whether to go on."""
        for item in self._received(wait=wait):
            if item is None:
                return False
            if isinstance(item, _Cancel):
                if (engine_id := self._engine_ids.pop(item.ticket, None)) is not None:
                    del self._tickets[engine_id]
                    served.engine.cancel(engine_id)
                continue
            try:
                engine_id = served.engine.submit(item.request)
            except UserError as error:
                self._say(self._listener.refused, item.ticket, error)
            else:
                self._engine_ids[item.ticket] = engine_id
                self._tickets[engine_id] = item.ticket
        return True

    def _received(self, *, wait: bool) -> Iterable[_Submit | _Cancel | None]:
        if wait:
            yield self._inbox.get()
        while True:
            try:
                yield self._inbox.get_nowait()
            except queue.Empty:
                return

    def _step(self, served: Served) -> None:
        # Outputs of a canceled request have no ticket any more.
        told = [
            (self._tickets[output.request_id], output)
            for output in served.engine.step()
            if output.request_id in self._tickets
        ]
        for ticket, output in told:
            if output.finished is not None:
                self._tickets.pop(output.request_id, None)
                self._engine_ids.pop(ticket, None)
        if told:
            self._say(self._listener.outputs, told)

    def _say(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._tell(lambda: function(*arguments))
        except RuntimeError:  # the event loop is closed: the process is about to end
            self._inbox.put(None)
