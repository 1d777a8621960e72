"""The routes of the server."""

import dataclasses
import importlib.resources
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from palmscale.errors import UserError
from palmscale.serve.completions import Completions
from palmscale.serve.dispatcher import Dispatcher
from palmscale.serve.limits import Limits
from palmscale.serve.middleware import KeyRequired, RequestLog, refused
from palmscale.serve.protocol import check_model
from palmscale.serve.refusal import Refusal, from_error
from palmscale.serve.served import Served
from palmscale.serve.vocabulary_routes import VocabularyRoutes

# The page asks for the key itself; a health check has none.
_OPEN_PATHS = ("/", "/health")
_QUIET_PATHS = ("/health", "/metrics")
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """Who may use the server, and what it logs of them.

    Attributes:
        api_key: that every request needs, except for the page and the health check; None: none.
        cors_origins: origins whose pages may use the server; `*`: all.
        log_prompts: whether the log has the text of prompts.
    """

    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    log_prompts: bool = False


def application(
    dispatcher: Dispatcher, *, limits: Limits, access: Access, say: Callable[[str], None]
) -> Starlette:
    """Returns the application that answers for a dispatcher; `say` receives a line a request."""
    routes = [
        Route("/v1/completions", Completions(dispatcher, limits).answer, methods=["POST"]),
        *VocabularyRoutes(dispatcher, limits).routes(),
        *_Information(dispatcher).routes(),
    ]
    paths = frozenset(route.path for route in routes)
    middleware = [
        Middleware(
            RequestLog, metrics=dispatcher.metrics, say=say, paths=paths, quiet_paths=_QUIET_PATHS,
            with_prompts=access.log_prompts,
        )
    ]  # fmt: skip
    if access.cors_origins:  # before the key: a browser asks first, without one
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=access.cors_origins, allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type"],
            )
        )  # fmt: skip
    if access.api_key is not None:
        middleware.append(Middleware(KeyRequired, key=access.api_key, open_paths=_OPEN_PATHS))
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            Refusal: _answer_error,
            UserError: _answer_error,
            HTTPException: _answer_http_error,
            Exception: _answer_error,
        },
    )


class _Information:
    """The routes that decode nothing."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        page = importlib.resources.files("palmscale.serve") / "page.html"
        self._page = page.read_text(encoding="utf-8")

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        return HTMLResponse(self._page, headers={"Content-Security-Policy": _PAGE_POLICY})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": self._dispatcher.served.name})

    async def metrics(self, request: Request) -> Response:
        return Response(self._dispatcher.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(self._dispatcher.served)]})

    async def model(self, request: Request) -> Response:
        served = self._dispatcher.served
        check_model(request.path_params["name"], served)
        return JSONResponse(_model(served))

    async def chat(self, request: Request) -> Response:
        raise Refusal(
            404,
            f"{self._dispatcher.served.name} is a base model, which continues text and knows no"
            " chat; use /v1/completions.",
            code="base_model",
        )


def _model(served: Served) -> dict[str, object]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "palmscale",
        "max_model_len": served.context_length,
    }


async def _answer_error(request: Request, error: Exception) -> Response:
    refusal = from_error(error)
    request.state.refusal = refusal  # for the log
    return refused(refusal)


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    known = {404: "there is no such path", 405: f"{request.method} is not what this path takes"}
    refusal = Refusal(error.status_code, f"{known.get(error.status_code, error.detail)}.")
    response = refused(refusal)
    response.headers.update(error.headers or {})
    return response
