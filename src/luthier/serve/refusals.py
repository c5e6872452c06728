"""What is refused over HTTP, in the shape that OpenAI's clients read.

{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}       and a status that their classes go by

400 BadRequestError    401 AuthenticationError    404 NotFoundError    413, 415 APIStatusError    429 RateLimitError
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST_MESSAGE = 500


class ApiError(Exception):
    """A request that gets no answer.

    Args:
        status: Of HTTP.
        message: For a human; it may quote the request, so it is cut.
        param: The field of the request that is wrong, dotted.
        code: A word for programs.
        kind: OpenAI's `type`.
        headers: Of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.kind, self.headers = status, param, code, kind, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """What is sent."""
        message = str(self)[:LONGEST_MESSAGE]
        return {"error": {"message": message, "type": self.kind, "param": self.param, "code": self.code}}


def busy(message: str) -> ApiError:
    """Come back later."""
    return ApiError(
        429, message, code="rate_limit_exceeded", kind="server_overloaded", headers={"Retry-After": RETRY_AFTER}
    )


RETRY_AFTER = "1"
"""Seconds: how long an answer takes is not known, and asking again costs little."""


def broken() -> ApiError:
    """Something here went wrong; what it was is told at the server, not to whoever asks."""
    return ApiError(500, "the server failed at this request", code="internal_error", kind="server_error")


def closing() -> ApiError:
    """The server ends."""
    return ApiError(503, "the server is shutting down", code="shutting_down", kind="server_error")
