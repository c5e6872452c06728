"""Who and what may come in: the host, the key, the size of a body, the time that it takes.

A browser sends requests to localhost for any page that asks it to. So a body has to call itself JSON (which makes the
browser ask first, and nobody answers), and where the server is bound to localhost, its name has to be one of that.

Not covered: TLS (put a proxy before it), limits for each client.
"""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass

from starlette.requests import Request

from luthier.machine.listening import host_in, is_local
from luthier.serve.refusals import ApiError

MOST_BYTES = 2 * 2**20
"""Of a body: more than the longest context of a model that fits one device has text."""
DRAINED_BYTES = 32 * 2**20
"""Of a body that is too large: so much is read and dropped, so that its sender gets to read the answer."""
BODY_SECONDS = 30.0


@dataclass(frozen=True)
class Door:
    """What is asked of every request.

    Attributes:
        key: Of the API; empty: none is needed.
        local: Whether the server is bound to localhost.
    """

    key: str = ""
    local: bool = True

    def check_host(self, request: Request) -> None:
        """Refuse a page that calls localhost by a name of its own (DNS rebinding).

        Raises:
            ApiError: 400.
        """
        if self.local and not is_local(host_in(request.headers.get("host", "localhost"))):
            raise ApiError(400, "this server answers to localhost only; --host binds it to a name", code="wrong_host")

    def check_key(self, request: Request) -> None:
        """Refuse whoever does not know the key; how long that takes says nothing about it.

        Raises:
            ApiError: 401.
        """
        if not self.key:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        known = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self.key.encode())
        if scheme.lower() != "bearer" or not known:
            headers = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, "Incorrect API key provided", code="invalid_api_key", headers=headers)

    async def body(self, request: Request) -> bytes:
        """The body, whole.

        Raises:
            ApiError: 408, 413 or 415.
            ClientDisconnect: When the client goes.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, "the body must be of Content-Type application/json", code="unsupported_media_type")
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced[:18]) > DRAINED_BYTES:
            raise too_large(unread=True)
        body = bytearray()
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in request.stream():
                    size += len(piece)
                    if size <= MOST_BYTES:
                        body += piece
                    elif size > DRAINED_BYTES:
                        raise too_large(unread=True)
        except TimeoutError:
            close = {"Connection": "close"}
            raise ApiError(408, "the body did not come in time", code="request_timeout", headers=close) from None
        if size > MOST_BYTES:
            raise too_large(unread=False)
        return bytes(body)


def too_large(unread: bool) -> ApiError:
    """A body beyond the limit; what was not read of it closes the connection."""
    headers = {"Connection": "close"} if unread else {}
    return ApiError(413, f"a body may have {MOST_BYTES:,} bytes", code="request_too_large", headers=headers)
