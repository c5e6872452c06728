"""Luthier's end of a server: starts it, runs programs through it, ends it. Nothing here waits without a limit.

    Link       -> a fresh interpreter running `server`, whose first word is that its walls stand, or why not
    Link.run   -> programs before their judges, `workers` at a time, one connection each
    Link.stop  -> the control connection ends, and the server takes everything along; else it is killed

Not covered: which tier (`tiers`), what to do when a server dies (`sandbox`).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from luthier.evaluate.sandbox.trial import Trial
from luthier.evaluate.sandbox.wire import ENDED, HELLO, KILL, REQUEST, SPAWN, STARVED, Walls

# The server sees these files as a package of their own and nothing else of Luthier.
_BOOT = """\
import sys, types
package = types.ModuleType("inside"); package.__path__ = [sys.argv[1]]; sys.modules["inside"] = package
from inside.server import main
main()
"""
ENVIRONMENT = {"LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": ".", "PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1"}
LOADER = ("LD_LIBRARY_PATH",)
"""What an interpreter may need to start at all; it names folders, and no secrets."""
_HELLO_SECONDS = 20.0
_GRACE_SECONDS = 10.0
_PATIENCE_SECONDS = 3.0
_CLEARING = 3


class NoStartError(OSError):
    """The server did not start; the text says why."""


class LostError(OSError):
    """The server ended, or went silent."""


class Link:
    """A running server.

    Attributes:
        walls: What it gives its candidates.
    """

    def __init__(self, walls: Walls, wrapper: Sequence[str] = ()) -> None:
        """Start a server and wait until its walls stand.

        Raises:
            NoStartError: They do not.
        """
        self.walls = walls
        self._numbers = 0
        self._control, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = self._begin_process(theirs, wrapper)
        except OSError as error:
            self._control.close()
            raise NoStartError(f"its server did not start: {error}") from error
        try:
            self._hello()
        except BaseException:
            self.stop()
            raise

    def _begin_process(self, control: socket.socket, wrapper: Sequence[str]) -> subprocess.Popen[bytes]:
        flags = ["-s", "-S", "-P", "-B", "-X", "utf8"]
        return subprocess.Popen(
            [*wrapper, sys.executable, *flags, "-c", _BOOT, str(Path(__file__).parent), *self.walls.to_arguments()],
            stdin=control.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT | {name: os.environ[name] for name in LOADER if name in os.environ},
            cwd="/",
            start_new_session=True,
        )

    def _hello(self) -> None:
        self._control.settimeout(_HELLO_SECONDS)
        try:
            well, length = HELLO.unpack(self._receive(HELLO.size))
            text = self._receive(length).decode("utf-8", "replace")
        except (OSError, EOFError) as error:
            raise NoStartError(f"its server did not start: {error or type(error).__name__}") from error
        if not well:
            raise NoStartError(text)

    def _receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self._control.recv(length - len(data))
            if not part:
                raise EOFError("it ended at once")
            data += part
        return data

    def stop(self) -> None:
        """End the server and every candidate. Safe to call again."""
        self._control.close()
        try:
            # It sees the end of the control connection, and takes everything that it started along.
            self._process.wait(timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_PATIENCE_SECONDS)

    def run(self, trials: Sequence[Trial], workers: int) -> None:
        """Bring each trial to its verdict.

        Raises:
            LostError: The server ended or went silent; trials without a verdict were running or had not begun.
        """
        waiting, floor = deque(t for t in trials if t.verdict is None), _Floor(self._control)
        try:
            while waiting or floor.running:
                while waiting and floor.has_room(workers):
                    self._begin(waiting.popleft(), floor)
                self._turn(floor)
        except (BrokenPipeError, ConnectionResetError, TimeoutError) as error:
            raise LostError("the server of the sandbox ended") from error
        finally:
            floor.close()

    def _begin(self, trial: Trial, floor: _Floor) -> None:
        self._numbers += 1
        trial.begin(self._numbers)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            socket.send_fds(self._control, [REQUEST.pack(SPAWN, trial.number)], [theirs.fileno()])
        floor.add(trial, ours)

    def _turn(self, floor: _Floor) -> None:
        limit = STARVED * self.walls.seconds + _GRACE_SECONDS
        patience = min(trial.began + limit for trial in floor.running.values()) - time.monotonic()
        events = floor.selector.select(max(0.0, patience))
        if not events and patience <= 0:
            raise LostError("the server of the sandbox went silent")
        control = False
        for key, _ in events:
            if key.data is None:
                control = True
            elif floor.exchange(key.data):
                self._control.sendall(REQUEST.pack(KILL, key.data.number))
        if control:
            self._news(floor)

    def _news(self, floor: _Floor) -> None:
        """A candidate ended: what it still said counts, then how it ended."""
        try:
            number, status, cpu_ms, killed = ENDED.unpack(self._receive(ENDED.size))
        except EOFError as error:
            raise LostError("the server of the sandbox ended") from error
        trial = floor.running[number]
        floor.exchange(trial)
        floor.remove(trial)
        trial.ended(status, cpu_ms / 1000, killed, self.walls.seconds)


class _Floor:
    """The trials that are running, each with its connection."""

    def __init__(self, control: socket.socket) -> None:
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ)
        self.running: dict[int, Trial] = {}
        self._connections: dict[int, socket.socket] = {}

    def has_room(self, workers: int) -> bool:
        """Whether one more may begin. Those with a verdict are being cleared away, which is mostly waiting."""
        busy = sum(trial.verdict is None for trial in self.running.values())
        return busy < workers and len(self.running) < _CLEARING * workers

    def add(self, trial: Trial, connection: socket.socket) -> None:
        self.running[trial.number] = trial
        self._connections[trial.number] = connection
        self.selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, trial)

    def remove(self, trial: Trial) -> None:
        del self.running[trial.number]
        self._hang_up(trial)

    def _hang_up(self, trial: Trial) -> None:
        connection = self._connections.pop(trial.number, None)
        if connection is not None:
            self.selector.unregister(connection)
            connection.close()

    def exchange(self, trial: Trial) -> bool:
        """Move bytes both ways; whether the trial has just come to its verdict."""
        connection = self._connections.get(trial.number)
        if connection is None:
            return False
        gone = False
        try:
            while trial.verdict is None and not gone:
                data = connection.recv(1 << 16)
                trial.received(data)
                gone = not data
        except BlockingIOError:
            gone = not self._send(trial, connection)
        except OSError:
            gone = True
        if gone or trial.verdict is not None:
            self._hang_up(trial)
            return trial.verdict is not None
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if trial.outgoing else 0)
        self.selector.modify(connection, events, trial)
        return False

    def _send(self, trial: Trial, connection: socket.socket) -> bool:
        """Send what the trial has to say; whether somebody is there to read it."""
        try:
            while trial.outgoing:
                del trial.outgoing[: connection.send(trial.outgoing)]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def close(self) -> None:
        for trial in list(self.running.values()):
            self._hang_up(trial)
        self.selector.close()
