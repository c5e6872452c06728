"""A server that runs until it is told to end.

    Ctrl-C or SIGTERM     takes no more; what is being written has some seconds to end; then it is cut short
    again                 cut short now

Connections that neither ask nor read are closed: those that in `PATIENCE_SECONDS` finished no request head, and those
that took nothing of what was sent to them.

Not covered: several processes, TLS, HTTP/2.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from luthier.machine.listening import is_local
from luthier.serve.app import Limits, make_app
from luthier.serve.door import Door
from luthier.serve.models import Served
from luthier.serve.worker import Worker

PATIENCE_SECONDS = 20.0
GRACE_SECONDS = 10.0


def serve_until_told(server: Server) -> None:
    """Answer requests until a signal ends it; in the main thread."""
    # uvicorn sends itself the signal again when it has ended; there is nothing left to end then
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Server(uvicorn.Server):
    """HTTP and the worker behind it.

    Args:
        models: By name.
        listening: Of `luthier.machine.listening.listen`; it is closed at the end.
        key: That clients have to know; empty: none.
        most_waiting: Requests that may wait for their turn.
        limits: Of one request.
        report: Told of an exception that nobody foresaw.
        ready: Called when it answers.
    """

    def __init__(
        self,
        models: Mapping[str, Served],
        listening: socket.socket,
        *,
        key: str = "",
        most_waiting: int = 64,
        limits: Limits | None = None,
        report: Callable[[BaseException], None] = lambda error: None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._ready = ready
        self._listening = listening
        self._worker = Worker(most_waiting, report)
        door = Door(key, local=is_local(listening.getsockname()[0]))
        app = make_app(models, self._worker, door, limits or Limits(), report, created=int(time.time()))
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(GRACE_SECONDS) + 5,
            )
        )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests until it is told to end."""
        self._worker.start()
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of clients that left in the middle of an answer
        try:
            super().run(sockets or [self._listening])
        finally:
            self._worker.close()
            self._worker.cut()
            self._worker.join(GRACE_SECONDS)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal, in the main thread, between two steps of the loop."""
        first = not self.should_exit
        super().handle_exit(sig, frame)
        loop = asyncio.get_running_loop()
        if first:
            loop.call_soon_threadsafe(self._worker.close)
            loop.call_soon_threadsafe(loop.call_later, GRACE_SECONDS, self._worker.cut)
        else:
            loop.call_soon_threadsafe(self._worker.cut)


class _Protocol(H11Protocol):
    """A connection that is looked after: uvicorn itself waits for heads and for readers without an end."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._seen: tuple[Any, int] = (None, 0)
        self._watch: asyncio.TimerHandle | None = self.loop.call_later(PATIENCE_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Ends the connection when it is stuck as it was at the last look."""
        unread = self.transport.get_write_buffer_size()
        now = (self.cycle, unread)
        waits = self.cycle is None or self.cycle.response_complete or unread > 0
        if waits and now == self._seen:
            self.transport.abort()
            return
        self._seen = now
        self._watch = self.loop.call_later(PATIENCE_SECONDS, self._look)
