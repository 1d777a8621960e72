"""What surrounds every request: the key that it needs, and the line that it leaves in the log."""

import hmac
import time
from collections.abc import Callable, Collection

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from palmscale.serve.metrics import Metrics
from palmscale.serve.refusal import Refusal

_SHOWN = 200  # characters of a path or a prompt


class KeyRequired:
    """Refuses requests without the key, as `Authorization: Bearer KEY`.

    Args:
        app: what answers with the key.
        key: of the server.
        open_paths: paths that anybody may ask for.
    """

    def __init__(self, app: ASGIApp, *, key: str, open_paths: Collection[str]) -> None:
        self._app, self._key, self._open_paths = app, key.encode(), open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            given = dict(scope["headers"]).get(b"authorization", b"")
            scheme, _, key = given.partition(b" ")
            # The time of the comparison does not depend on how much of the key is right.
            if not hmac.compare_digest(key.strip(), self._key) or scheme.lower() != b"bearer":
                what = "wrong" if given else "missing"
                refusal = Refusal(
                    401,
                    f"the API key is {what}; send it as `Authorization: Bearer KEY`.",
                    code="invalid_api_key",
                )
                await refused(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class RequestLog:
    """Logs one line for each request, and counts it.

    Args:
        app: what answers.
        metrics: that count.
        say: receives the lines.
        paths: that are counted by name.
        quiet_paths: that monitors ask for all the time: counted only.
        with_prompts: whether the prompt's text is logged as well.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        say: Callable[[str], None],
        paths: Collection[str],
        quiet_paths: Collection[str],
        with_prompts: bool,
    ) -> None:
        self._app, self._metrics, self._say = app, metrics, say
        self._paths, self._quiet_paths, self._with_prompts = paths, quiet_paths, with_prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        since, status, state = time.monotonic(), 500, scope.setdefault("state", {})

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            seconds, path = time.monotonic() - since, scope["path"]
            counted = path if path in self._paths else "other"
            self._metrics.requests.labels(path=counted, status=str(status)).inc()
            if "tally" in state:
                self._metrics.request_seconds.observe(seconds)
            if path not in self._quiet_paths:
                line = f"{scope['method']} {path[:_SHOWN]} {status} {seconds:.3f} s"
                self._say(line + self._about(state))

    def _about(self, state: dict) -> str:
        if "refusal" in state:  # by its field alone: a message may hold what the client wrote
            return f" refused: {state['refusal'].param or state['refusal'].code or 'the body'}"
        if "tally" not in state:
            return ""
        tally, opened = state["tally"], state.get("opened")
        words = [
            f" {tally.id}: {tally.prompt_tokens} prompt tokens ({tally.reused_tokens} reused)",
            f"{tally.completion_tokens} drawn",
        ]
        if opened is not None and opened.first_token_seconds is not None:
            words.append(f"first after {opened.first_token_seconds:.3f} s")
        words.append(" ".join(sorted(set(tally.finish_reasons.values()))) or "not finished")
        if self._with_prompts:
            words.append(f"prompt {str(state['prompts'])[:_SHOWN]}")
        return ", ".join(words)


def refused(refusal: Refusal) -> Response:
    """Returns the response of a refusal."""
    return JSONResponse(refusal.body(), status_code=refusal.status, headers=refusal.headers)
