"""One HTTP server around one engine: it listens, loads, answers, and ends when it is asked to."""

import asyncio
import dataclasses
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from palmscale.errors import UserError
from palmscale.serve.app import Access, application
from palmscale.serve.dispatcher import Dispatcher
from palmscale.serve.limits import Limits
from palmscale.serve.metrics import Metrics
from palmscale.serve.served import Served

_POLL_SECONDS = 0.05
_CLOSE_SECONDS = 5  # for the last bytes of answers
_STEP_SECONDS = 30  # that the decode thread may take to end
_BACKLOG = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens.

    Attributes:
        host: a name or an address of this machine.
        port: 0: any free one.
    """

    host: str = "127.0.0.1"
    port: int = 8000


class Server:
    """Listens from the beginning, and answers 503 until the model is loaded.

    Args:
        load: returns what is served; runs in the thread that decodes.
        address: where it listens.
        limits: of requests.
        access: who may use it.
        say: receives what the user may read: where it listens, and a line a request.
        warn: receives what the user should read.
        share: gives orders to the other processes of a job, which `follow`; None: there are none.

    Raises:
        UserError: the address cannot be had.
    """

    def __init__(
        self,
        load: Callable[[], Served],
        *,
        address: Address = Address(),
        limits: Limits = Limits(),
        access: Access = Access(),
        say: Callable[[str], None],
        warn: Callable[[str], None],
        share: Callable[[str], object] | None = None,
    ) -> None:
        self._share = share
        self._load, self._limits, self._access, self._say = load, limits, access, say
        self._listener = _listening(address)
        if access.api_key is None and not _is_local(self._listener):
            warn(
                f"{self.url} can be reached from other machines and needs no key; set an API key,"
                " or listen at 127.0.0.1."
            )
        self._http: _Http | None = None
        self._interrupted = False

    @property
    def url(self) -> str:
        """Returns where it listens."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Serves until SIGTERM, Ctrl-C or `end`; then open requests finish, and new ones get 503.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed again while open requests finished.
            Exception: what `load` or a step of the engine raised; open requests were answered with
                500.
        """
        with self._listener:
            asyncio.run(self._run())

    def end(self) -> None:
        """Ends as SIGTERM does; may be called from any thread."""
        if self._http is not None:
            self._http.handle_exit(signal.SIGTERM, None)

    async def _run(self) -> None:
        for name in ("uvicorn", "asyncio"):  # of clients that leave
            logging.getLogger(name).setLevel(logging.ERROR)
        dispatcher = Dispatcher(
            self._load,
            limits=self._limits,
            metrics=Metrics(),
            opened=self._announce,
            closed=lambda: http.close(),
            share=self._share,
        )
        app = application(dispatcher, limits=self._limits, access=self._access, say=self._say)
        self._http = http = _Http(app, dispatcher, self._limits.drain_seconds, self._say)
        await http.serve(sockets=[self._listener])
        await asyncio.to_thread(dispatcher.stop, _STEP_SECONDS)
        if dispatcher.failure is not None:
            raise dispatcher.failure
        if http.interrupted:
            raise KeyboardInterrupt

    def _announce(self, served: Served) -> None:
        self._say(
            f"Serving {served.name} at {self.url}: {served.slots} slots of"
            f" {served.context_length:,} tokens. Press Ctrl-C to stop."
        )


class _Http(uvicorn.Server):
    """Lets open requests finish while it still answers, so that new ones get 503, and closes."""

    def __init__(
        self,
        app: Callable[..., object],
        dispatcher: Dispatcher,
        drain_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
        )
        super().__init__(config)
        self._dispatcher, self._drain_seconds, self._say = dispatcher, drain_seconds, say
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None
        self.interrupted = False

    def close(self) -> None:
        """Closes without waiting for sequences."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to drain; asked a second time, ends at once."""
        if self._dispatcher.draining:
            self.interrupted = sig == signal.SIGINT
            self.should_exit = self.force_exit = True
            return
        self._dispatcher.draining = True
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._draining = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        if count := self._dispatcher.open_sequences:
            self._say(f"Finishing {count} open sequences; ask again to end at once.")
        try:
            async with asyncio.timeout(self._drain_seconds):
                while self._dispatcher.open_sequences:
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            count = self._dispatcher.open_sequences
            self._say(f"{count} sequences did not finish within {self._drain_seconds:g} s.")
        self.close()


def _listening(address: Address) -> socket.socket:
    """Returns a socket that listens at an address.

    Raises:
        UserError: the address is not one of this machine, or it is taken.
    """
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, *_, where = found[0]
        return socket.create_server(where[:2], family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen at host={address.host}, port={address.port}: {reason}; use another."
        ) from None


def _is_local(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
