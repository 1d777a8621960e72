"""The one thread that owns the engine: it loads it, feeds it, and tells what comes of it."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from palmscale.errors import UserError
from palmscale.infer.request import Output, Request
from palmscale.serve.desk import Desk
from palmscale.serve.guides import Form
from palmscale.serve.orders import Cancel, End, Order, Submit, written
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


class DecodeThread:
    """Decodes in a thread of its own; every method may be called from any other thread.

    Args:
        load: returns what is served; runs in the thread, so that the server answers meanwhile.
        listener: is told.
        tell: runs a function of the listener where that belongs, and soon; it raises RuntimeError
            once nobody listens.
        share: gives the orders before each step to the other processes; None: there are none.
    """

    def __init__(
        self,
        load: Callable[[], Served],
        listener: Listener,
        tell: Callable[[Callable[[], None]], object],
        *,
        share: Callable[[str], object] | None = None,
    ) -> None:
        self._load, self._listener, self._tell, self._share = load, listener, tell, share
        self._inbox: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)

    def start(self) -> None:
        """Starts to load."""
        self._thread.start()

    def submit(self, ticket: int, request: Request, form: Form | None = None) -> None:
        """Asks for a request, whose guide keeps to `form`; its outputs carry the ticket."""
        self._inbox.put(Submit(ticket, request, form))

    def cancel(self, ticket: int) -> None:
        """Gives a request up; one that has ended is ignored."""
        self._inbox.put(Cancel(ticket))

    def stop(self, timeout_seconds: float) -> None:
        """Ends the thread after the step that is running."""
        self._inbox.put(End())
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        error = None
        try:
            served = self._load()
            self._say(self._listener.loaded, served)
            self._decode(Desk(served.engine))
        except BaseException as raised:  # whatever it is, clients and the main thread must know
            error = raised
        self._say(self._listener.ended, error)

    def _decode(self, desk: Desk) -> None:
        while True:
            orders = self._received(wait=not desk.busy)
            if self._share is not None:
                self._share(written(orders))
            for ticket, error in desk.do(orders):
                self._say(self._listener.refused, ticket, error)
            if any(isinstance(order, End) for order in orders):
                return
            if desk.busy and (told := desk.step()):
                self._say(self._listener.outputs, told)

    def _received(self, *, wait: bool) -> list[Order]:
        orders = [self._inbox.get()] if wait else []
        while True:
            try:
                orders.append(self._inbox.get_nowait())
            except queue.Empty:
                return orders

    def _say(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._tell(lambda: function(*arguments))
        except RuntimeError:  # the event loop is closed: the process is about to end
            self._inbox.put(End())
