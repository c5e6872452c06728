"""The process that runs one candidate, inside the walls. The only file of Luthier that runs code out of data.

    judge (outside)                          this process
    CODE entry point, text          ->       run it as a module
                                    <-       RAN                           | ERROR | SYNTAX | WALLS do not stand
    VALUE nonce, expression         ->       evaluate it beside that module
                                    <-       VALUE the nonce, plain bytes  | ERROR | SYNTAX | OTHER than plain
    RUN nonce, statements           ->       run them beside that module
                                    <-       RAN the nonce                 | ERROR | SYNTAX

The next test is sent when the one before is done, so code that is being imported finds none in memory. It finds no
expected value of an expression at any time: the judge keeps those to itself.

What this file uses was bound before the candidate ran. Before each test the modules that judge (`builtins`, `math`,
`cmath`, `operator`) and the hooks of the interpreter are put back. Statements run in a space where no name of the
candidate hides those, but for the function that is asked for: `def abs(x): return 0` helps nobody who was not to write
`abs`.

Not covered: proof for statements. The candidate shares this process, so code that reads the connection itself, or walks
frames while a statement calls it, gets that statement's nonce and can claim that it ended. For expressions a nonce is
worth nothing without the value.
"""

from __future__ import annotations

import builtins
import cmath
import math
import operator
import os
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from . import wire
from .values import NotPlainError, encode

_LONGEST_TEXT = 500
_NAME, _CODE, _TEST = "program", "<program>", "<test>"
_JUDGES = builtins, math, cmath, operator


def run(connection: int) -> None:
    """Serve the judge until it hangs up; the process ends here."""
    leave = os._exit
    try:
        _serve(_Judge(connection))
    finally:
        leave(0)


def refusal(error: BaseException) -> bytes:
    """The frame that says that the walls did not stand and no candidate runs."""
    text = str(error).encode("utf-8", "replace")[:_LONGEST_TEXT]
    return wire.FRAME.pack(wire.WALLS, len(text)) + text


class _Judge:
    """The other end of the connection."""

    def __init__(self, connection: int) -> None:
        self._connection = connection
        self._read, self._write = os.read, os.write

    def ask(self) -> tuple[bytes, bytes]:
        """The next frame.

        Raises:
            EOFError: The judge has hung up.
        """
        kind, length = wire.FRAME.unpack(self._take(wire.FRAME.size))
        return kind, self._take(length)

    def _take(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            part = self._read(self._connection, min(length - len(data), 1 << 16))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def tell(self, kind: bytes, payload: bytes = b"") -> None:
        """Send a frame."""
        data = memoryview(wire.FRAME.pack(kind, len(payload)) + payload)
        while data:
            data = data[self._write(self._connection, data) :]


def _serve(judge: _Judge) -> None:
    reset = _resetter()
    module = ModuleType(_NAME)
    sys.modules[_NAME] = module
    sys.argv = [_NAME]
    entry_point, _, code = judge.ask()[1].partition(b"\0")
    space = _Space(module.__dict__, entry_point.decode("utf-8", "surrogatepass"))
    going = _tell(judge, partial(_execute, code, _CODE, module.__dict__))
    while going:
        kind, payload = judge.ask()
        reset()
        nonce, text = payload[: wire.NONCE_BYTES], payload[wire.NONCE_BYTES :]
        space.strict = kind == wire.RUN
        if kind == wire.VALUE:
            going = _tell(judge, partial(_evaluate, text, space, nonce))
        else:
            going = _tell(judge, partial(_execute, text, _TEST, space, nonce))


class _Space(dict[str, Any]):
    """Where tests look names up: in what tests bound before, then in the program as it is now, then in builtins.

    In an expression a name of the program hides a builtin, as in `sum(2, 3)` of a program that defines sum. In
    statements (`strict`) it hides neither a builtin nor a module that judges, unless it is the entry point.
    """

    def __init__(self, program: dict[str, Any], entry_point: str) -> None:
        clean = dict(vars(builtins))
        super().__init__(__name__=_NAME, __builtins__=clean)
        self.strict = False
        self._program = program
        self._true = {**clean, **{module.__name__: module for module in _JUDGES}}
        self._true.pop(entry_point, None)

    def __missing__(self, name: str) -> Any:
        value = self._program[name]
        return self._true.get(name, value) if self.strict else value


def _resetter() -> Callable[[], None]:
    """A function that puts back what a program did to the modules that judge and to the interpreter's hooks."""
    clean = [(module.__name__, module, vars(module), dict(vars(module))) for module in _JUDGES]
    modules, hooks = sys.modules, (sys.settrace, sys.setprofile)

    def reset() -> None:
        for hook in hooks:
            hook(None)
        for name, module, names, was in clean:
            modules[name] = module
            names.update(was)
            for added in names.keys() - was.keys():
                del names[added]

    return reset


def _execute(text: bytes, file: str, space: dict[str, Any], nonce: bytes = b"") -> tuple[bytes, bytes]:
    exec(compile(text.decode("utf-8", "surrogatepass"), file, "exec", dont_inherit=True), space)
    return wire.RAN, nonce


def _evaluate(text: bytes, space: dict[str, Any], nonce: bytes) -> tuple[bytes, bytes]:
    value = eval(compile(text.decode("utf-8", "surrogatepass"), _TEST, "eval", dont_inherit=True), space)
    try:
        return wire.VALUE, nonce + encode(value)
    except NotPlainError as error:
        return wire.OTHER, nonce + str(error).encode()


def _tell(judge: _Judge, work: Callable[[], tuple[bytes, bytes]]) -> bool:
    """Do some work of the candidate and tell the judge how it ended; whether to go on."""
    try:
        answer = work()
    except BaseException as error:
        judge.tell(*_describe(error))
        return False
    judge.tell(*answer)
    return True


def _describe(error: BaseException) -> tuple[bytes, bytes]:
    """The letter and the text of an exception: its class, its line in the candidate, its message."""
    places, trace = [], error.__traceback__
    while trace is not None:
        places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    lines = [line for file, line in places if file == _CODE]
    # Compiling says no with a SyntaxError, to null bytes and lone surrogates with others; nothing has run then.
    ran = any(file in (_CODE, _TEST) for file, _ in places)
    refused = not ran and isinstance(error, (SyntaxError, ValueError, OverflowError))
    try:
        message = str(error)[:_LONGEST_TEXT]
    except BaseException:
        message = ""
    name = type.__dict__["__name__"].__get__(type(error))[:_LONGEST_TEXT]
    text = "\0".join((name, str(lines[-1]) if lines else "", message))
    return wire.SYNTAX if refused else wire.ERROR, text.encode("utf-8", "replace")
