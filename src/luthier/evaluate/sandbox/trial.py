"""One program before its judge: what is sent next, and what the answer means. Frames as in `wire`.

The judge believes nothing that it did not ask for: an answer must bring back the nonce of its question, and a frame out
of turn ends the trial. A value is compared here. That the process ended, however politely, is never a success.

Not covered: moving the bytes (`link`), splitting the tests (`verdict`).
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Sequence

from luthier.evaluate.sandbox import values, wire
from luthier.evaluate.sandbox.types import Cause, Program, Verdict
from luthier.evaluate.sandbox.verdict import BadTestError, Item, read_tests
from luthier.events.printable import one_line

_LONGEST_FRAME = 2 * values.LONGEST
_SHOWN = 300
_CAUSES: dict[str, Cause] = {"MemoryError": "memory", "PermissionError": "forbidden"}


class Trial:
    """The state of one program; `sent` and `received` move it, until `verdict` is there.

    Attributes:
        number: The server's name for it, once it has begun.
        began: When that was, on the monotonic clock.
        outgoing: Bytes that the program is still to get.
        verdict: None while it runs.
        unheld: It, or the machine, said that its walls did not stand. The program may have lied.
    """

    def __init__(self, program: Program) -> None:
        self.number = 0
        self.began = time.monotonic()
        self.outgoing = bytearray()
        self.verdict: Verdict | None = None
        self.unheld = False
        self._incoming = bytearray()
        self._next = 0
        self._code_ran = False
        self._nonce = b""
        self._items: Sequence[Item] = ()
        try:
            self._items = read_tests(program.tests)
        except BadTestError as error:
            self._end("syntax", str(error))
            return
        if self._items:
            self._ask(wire.CODE, f"{program.entry_point}\0{program.code}".encode("utf-8", "surrogatepass"))
        else:
            self._end("no tests ran", "the program came without a test that could fail")

    def begin(self, number: int) -> None:
        """Start the clock."""
        self.number = number
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def received(self, data: bytes) -> None:
        """Take bytes that the program wrote."""
        self._incoming += data
        while self.verdict is None and len(self._incoming) >= wire.FRAME.size:
            kind, length = wire.FRAME.unpack_from(self._incoming)
            if length > _LONGEST_FRAME:
                return self._end("forbidden", "the program wrote into the channel of its judge")
            if len(self._incoming) < wire.FRAME.size + length:
                return None
            payload = bytes(self._incoming[wire.FRAME.size : wire.FRAME.size + length])
            del self._incoming[: wire.FRAME.size + length]
            self._judge(kind, payload)
        return None

    def ended(self, status: int, cpu_seconds: float, killed: bool, limit_seconds: float) -> None:
        """Take the news that the process is gone.

        Args:
            status: As wait(2) gives it.
            cpu_seconds: What it used.
            killed: By the server, for its time or its disk.
            limit_seconds: What it may use, of CPU time and, but for waiting, of wall time.
        """
        if self.verdict is not None:
            return
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if self.seconds >= limit_seconds or cpu_seconds >= 0.95 * limit_seconds:
            self._end("timeout", f"no verdict after {limit_seconds:g} s")
        elif killed:
            self._end("forbidden", "the program filled its disk")
        elif number == signal.SIGKILL:
            self._end("memory", "the machine ended the program: out of memory")
        elif number == signal.SIGSYS:
            self._end("forbidden", "the program called what the sandbox forbids")
        elif number:
            names = {member.value: member.name for member in signal.Signals}
            self._end("exception", f"the program crashed with {names.get(number, f'signal {number}')}")
        else:
            code = os.WEXITSTATUS(status)
            self._end("exception", f"the program ended itself with exit code {code} before its tests were done")

    def abandoned(self, detail: str) -> None:
        """Take the news that nothing more will come."""
        if self.verdict is None:
            self._end("forbidden", detail)

    def _judge(self, kind: bytes, payload: bytes) -> None:
        if kind in {wire.ERROR, wire.SYNTAX, wire.WALLS}:
            return self._failed(kind, payload)
        if not self._code_ran:
            if kind != wire.RAN or payload:
                return self._out_of_turn()
            self._code_ran = True
            return self._ask_next()
        item = self._items[self._next]
        nonce, payload = payload[: wire.NONCE_BYTES], payload[wire.NONCE_BYTES :]
        kinds = {wire.VALUE, wire.OTHER} if item.is_value else {wire.RAN}
        if kind not in kinds or not secrets.compare_digest(nonce, self._nonce):
            return self._out_of_turn()
        wrong = self._weigh(item, kind, payload) if item.is_value else ""
        if wrong:
            return self._end("wrong answer", wrong)
        self._next += 1
        return self._ask_next()

    def _weigh(self, item: Item, kind: bytes, payload: bytes) -> str:
        """Why a value is not the right one; empty when it is."""
        if kind == wire.OTHER:
            return "" if item.holds_for_other() else f"{item.shown}: {payload.decode('utf-8', 'replace')}"
        try:
            value = values.decode(payload)
            return "" if item.holds(value) else item.contradiction(value)
        except (values.NotPlainError, RecursionError, ArithmeticError) as error:
            return f"{item.shown}: {error}"

    def _ask_next(self) -> None:
        if self._next == len(self._items):
            return self._end("passed", f"{len(self._items)} tests held")
        item = self._items[self._next]
        self._nonce = secrets.token_bytes(wire.NONCE_BYTES)
        source = item.source.encode("utf-8", "surrogatepass")
        return self._ask(wire.VALUE if item.is_value else wire.RUN, self._nonce + source)

    def _ask(self, kind: bytes, payload: bytes) -> None:
        self.outgoing += wire.FRAME.pack(kind, len(payload)) + payload

    def _failed(self, kind: bytes, payload: bytes) -> None:
        text = payload.decode("utf-8", "replace")
        if kind == wire.WALLS:
            self.unheld = True
            return self._end("forbidden", f"the sandbox could not be closed: {text}")
        name, _, rest = text.partition("\0")
        line, _, message = rest.partition("\0")
        where = f" (line {line})" if line and not self._code_ran else ""
        test = f"{self._items[self._next].shown}: " if self._code_ran else ""
        detail = f"{test}{name}{f': {message}' if message else ''}{where}"
        return self._end(self._cause(kind, name), detail)

    def _cause(self, kind: bytes, name: str) -> Cause:
        if kind == wire.SYNTAX:
            return "syntax"
        if name == "AssertionError" and self._code_ran:
            return "wrong answer"
        return _CAUSES.get(name, "exception")

    def _out_of_turn(self) -> None:
        self._end("forbidden", "the program wrote into the channel of its judge")

    def _end(self, cause: Cause, detail: str) -> None:
        self.verdict = Verdict(cause == "passed", cause, one_line(detail[: 2 * _SHOWN])[:_SHOWN], self.seconds)
