"""The body of a request, within the limits of the server."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from palmscale.serve.limits import Limits
from palmscale.serve.refusal import Refusal


async def content_of(request: Request, limits: Limits) -> bytes:
    """Returns the body of a request.

    A page of another origin can send any content type but JSON without asking first, so that only
    JSON is taken.

    Raises:
        Refusal: it is no JSON by its content type, 415, too large, 413, or too slow, 408.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, f"Content-Type is {kind[:80] or 'missing'!r}; send application/json.")
    too_large = Refusal(
        413, f"the body has more than {limits.body_bytes:,} bytes; send less in a request."
    )
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                content += part
                if len(content) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {limits.body_seconds:g} s.") from None
    except ClientDisconnect:
        raise Refusal(400, "the client left while it sent the body.") from None
    return bytes(content)
