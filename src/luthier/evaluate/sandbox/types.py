"""What goes into the sandbox and what comes out of it.

Not covered: how a program is judged (`verdict`), how it is held (`confine`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cause = Literal["passed", "wrong answer", "exception", "syntax", "timeout", "memory", "forbidden", "no tests ran"]


@dataclass(frozen=True)
class Program:
    """Code that a model wrote, and what it must do.

    Attributes:
        code: A module's text. It runs as a module named ``program``, so a ``__main__`` guard stays shut.
        tests: Python texts that run after the code and see its names: one assert each, or whole blocks such as a
            ``check`` function and its call.
        entry_point: Name of the function that the tests are about. Tests find the program's even where Python has one
            of that name.
    """

    code: str
    tests: tuple[str, ...]
    entry_point: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of one program.

    Attributes:
        passed: Every test ran and held.
        cause: ``passed``, or the first thing that went wrong.
        detail: One line for a human; it may hold text that the program wrote.
        seconds: Wall time from the start of the program's process to the verdict.
    """

    passed: bool
    cause: Cause
    detail: str
    seconds: float
