"""`/v1/completions`: from a request to its answer, as long as the client is there."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from palmscale.serve.answer import Answer
from palmscale.serve.body import CompletionBody, parse
from palmscale.serve.dispatcher import Dispatcher, Opened
from palmscale.serve.limits import Limits
from palmscale.serve.protocol import Asked, sequences
from palmscale.serve.reading import content_of
from palmscale.serve.served import Served

CLIENT_GONE = 499  # as nginx logs it; nobody reads it


class Completions:
    """Answers completion requests.

    Args:
        dispatcher: of the sequences.
        limits: of the server.
    """

    def __init__(self, dispatcher: Dispatcher, limits: Limits) -> None:
        self._dispatcher, self._limits = dispatcher, limits

    async def answer(self, request: Request) -> Response:
        """Answers `/v1/completions`.

        Raises:
            Refusal: the request cannot be answered.
            UserError: the engine refuses it.
        """
        served = self._dispatcher.served
        content = await content_of(request, self._limits)
        # Long prompts take time to encode, in which other streams go on.
        body, asked = await run_in_threadpool(self._read, content, served)
        answer = Answer(body, asked, served)
        request.state.tally = answer.tally
        request.state.prompts = body.prompt
        opened = self._dispatcher.open([(one.request, one.form) for one in asked])
        request.state.opened = opened
        self._dispatcher.metrics.prompt_tokens.inc(answer.tally.prompt_tokens)
        if body.stream:
            return _Events(opened, answer.events(opened))
        with opened:
            whole = await _while_connected(request, answer.whole(opened))
        return Response(status_code=CLIENT_GONE) if whole is None else JSONResponse(whole)

    def _read(self, content: bytes, served: Served) -> tuple[CompletionBody, list[Asked]]:
        body = parse(CompletionBody, content)
        return body, sequences(body, served, self._limits)


class _Events(StreamingResponse):
    """A stream of events, whose sequences are given up however it ends, also before it begins."""

    def __init__(self, opened: Opened, events: AsyncIterator[bytes]) -> None:
        # Proxies, nginx among them, would collect the stream.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._opened:
            await super().__call__(scope, receive, send)


async def _while_connected(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """Returns what `work` does; None: the client is gone, and the work was canceled."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
