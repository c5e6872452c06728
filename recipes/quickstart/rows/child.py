"""Runs programs against their tests, in a process of its own: `python -I child.py < programs > verdicts`.

In: a JSON list of [code, [test, ...]]. Out: a JSON list of "" (passed) or what went wrong. Each program has SECONDS
of CPU time.

Not covered: hostile programs. What runs here was written by the generator; a model's code belongs in Luthier's sandbox.
"""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType
from typing import Any

SECONDS = 0.25


class _OverTimeError(BaseException):
    pass


def _stop(number: int, frame: FrameType | None) -> None:
    raise _OverTimeError


def run(code: str, tests: list[str]) -> str:
    """Empty when every test holds."""
    names: dict[str, Any] = {}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        for text in (code, *tests):
            exec(text, names)
    except (Exception, _OverTimeError) as error:
        return f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, _stop)
    sys.setrecursionlimit(400)
    json.dump([run(code, tests) for code, tests in json.load(sys.stdin)], sys.stdout)
