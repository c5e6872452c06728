"""One request between the event loop, where HTTP lives, and the worker's thread, where the model lives.

    await exchange.begin(gone)             waits until it is being written; an ApiError is raised here
    async for event in exchange: ...       Said, Ended, in the order of writing
    exchange.close()                       however it ends: a client that has gone needs no answer

A request whose deadline comes while it waits, for its turn or for memory, is refused (429); one that is being written
ends there, as if it had reached its length.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from luthier.serve.refusals import ApiError, busy
from luthier.serve.worker import Begun, Ended, Job, JobEvent, Said, Worker


class GoneError(Exception):
    """The client has gone."""


class Exchange:
    """A job and what it tells.

    Args:
        worker: Takes the job.
        seconds: Until the deadline.
        job: Arguments of `Job`, without `tell`.
    """

    def __init__(self, worker: Worker, seconds: float, **job: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[JobEvent | None] = asyncio.Queue()
        self._job = Job(tell=self._tell, **job)
        self._worker, self._seconds = worker, seconds
        self._deadline: asyncio.TimerHandle | None = None
        self.prompt_tokens = self.completion_tokens = 0

    async def begin(self, gone: Callable[[], Awaitable[None]]) -> None:
        """Hand the job in and wait until it is being written.

        Args:
            gone: Returns when the client has gone.

        Raises:
            ApiError: When there is no answer.
            GoneError: When nobody waits for it any more.
        """
        self._worker.submit(self._job)
        deadline = self._loop.time() + self._seconds
        try:
            async with asyncio.timeout_at(deadline):
                begun = await self._or_gone(self._next(), gone)
        except TimeoutError:
            self.close()
            raise busy(f"no turn came within {self._seconds:.0f} seconds; come back later") from None
        except BaseException:
            self.close()
            raise
        self._deadline = self._loop.call_at(deadline, self._job.cut, "length")
        assert isinstance(begun, Begun)
        self.prompt_tokens = begun.prompt_tokens

    async def all(self, gone: Callable[[], Awaitable[None]]) -> list[Said | Ended]:
        """Everything that is told, once it is over; raises as `begin`."""

        async def collected() -> list[Said | Ended]:
            return [event async for event in self]

        try:
            events: list[Said | Ended] = await self._or_gone(collected(), gone)
            return events
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[Said | Ended]:
        """Events until the last answer is whole; raises an ApiError where the writing fails."""
        left = self._job.rows
        while left:
            event = await self._next()
            assert isinstance(event, Said | Ended)
            if isinstance(event, Ended):
                left -= 1
                self.completion_tokens += event.tokens
            yield event

    def close(self) -> None:
        """Nobody listens any more: what is not written yet need not be."""
        self._job.cut("cancelled")
        if self._deadline is not None:
            self._deadline.cancel()

    async def _next(self) -> JobEvent:
        event = await self._events.get()
        if isinstance(event, ApiError):
            raise event
        assert event is not None
        return event

    async def _or_gone(self, awaited: Any, gone: Callable[[], Awaitable[None]]) -> Any:
        work, leaving = asyncio.ensure_future(awaited), asyncio.ensure_future(gone())
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise GoneError
            return work.result()
        finally:
            for task in (work, leaving):
                task.cancel()

    def _tell(self, event: JobEvent) -> None:
        """In the worker's thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
