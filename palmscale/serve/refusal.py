"""Why a request is refused, in the shape that OpenAI's clients read."""

import re
from typing import Any

from palmscale.errors import UserError

_FIELD = re.compile(r"(?:the )?(\w+)(?:=|\[| |$)")


class Refusal(Exception):
    """An answer other than 200.

    Args:
        status: the HTTP status.
        message: what is wrong, and what to change.
        param: the field at fault, if one is.
        code: a word for programs, such as `model_not_found`.
        retry_after_seconds: when to try again; only for what passes by itself.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> dict[str, str]:
        """Returns the headers that belong to the answer."""
        headers = {}
        if self.retry_after_seconds is not None:
            headers["Retry-After"] = str(self.retry_after_seconds)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    def body(self) -> dict[str, Any]:
        """Returns the JSON body."""
        return {
            "error": {
                "message": self.message,
                "type": _type(self.status),
                "param": self.param,
                "code": self.code,
            }
        }


def _type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def from_error(error: BaseException) -> Refusal:
    """Returns the answer to a request that an exception ended.

    A UserError names its field first, as in `temperature=-1`. Whatever else went wrong is for the
    log of the server: the client reads no more than that it was the server's fault.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UserError):
        field = _FIELD.match(str(error))
        return Refusal(400, str(error), param=field[1] if field else None)
    return Refusal(500, "the server failed on this request; see its log.", code="internal_error")
