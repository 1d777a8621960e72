"""Orders for an engine, and its outputs by ticket: the same on every process of a job."""

import signal
from collections.abc import Callable, Sequence

from palmscale.errors import UserError
from palmscale.infer.engine import Engine
from palmscale.infer.request import Output
from palmscale.serve.guides import guide_of
from palmscale.serve.orders import Cancel, End, Order, read
from palmscale.serve.served import Served


class Desk:
    """Does what orders say with an engine, which knows no tickets."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._engine_ids: dict[int, int] = {}  # by ticket
        self._tickets: dict[int, int] = {}  # by the engine's id

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return self._engine.busy

    def do(self, orders: Sequence[Order]) -> list[tuple[int, UserError]]:
        """Does what orders say; returns the tickets that the engine refuses."""
        refused = []
        for order in orders:
            if isinstance(order, Cancel):
                self._cancel(order.ticket)
            elif not isinstance(order, End):
                try:
                    engine_id = self._engine.submit(order.request)
                except UserError as error:
                    refused.append((order.ticket, error))
                else:
                    self._engine_ids[order.ticket] = engine_id
                    self._tickets[engine_id] = order.ticket
        return refused

    def step(self) -> list[tuple[int, Output]]:
        """Has the engine make a step; returns its outputs by ticket."""
        told = [(self._tickets[output.request_id], output) for output in self._engine.step()]
        for ticket, output in told:
            if output.finished is not None:
                del self._tickets[self._engine_ids.pop(ticket)]
        return told

    def _cancel(self, ticket: int) -> None:
        if (engine_id := self._engine_ids.pop(ticket, None)) is not None:
            del self._tickets[engine_id]
            self._engine.cancel(engine_id)


def follow(load: Callable[[], Served], receive: Callable[[], str]) -> None:
    """Takes part in the steps of a server whose process 0 talks to clients, until that ends.

    Signals that end a server are left to process 0: requests that it finishes need this process.

    Args:
        load: as of `Server`.
        receive: returns the next orders of process 0.
    """
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, signal.SIG_IGN)
    served = load()
    desk = Desk(served.engine)
    while True:
        orders = read(receive(), lambda form: guide_of(form, served.vocabulary))
        desk.do(orders)
        if any(isinstance(order, End) for order in orders):
            return
        if desk.busy:
            desk.step()
