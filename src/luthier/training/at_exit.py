"""Runs that nobody read to their end are closed when the program ends, while there is still an interpreter to do it.

Otherwise Python throws them away last, when half of the modules are gone, and prints a traceback for each.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Generator
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

P = ParamSpec("P")
T = TypeVar("T")

_open: WeakSet[Generator[Any, None, None]] = WeakSet()


def closed_at_exit(function: Callable[P, Generator[T, None, None]]) -> Callable[P, Generator[T, None, None]]:
    """A function that makes generators, each of which is closed when the program ends."""

    @wraps(function)
    def made(*args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        generator = function(*args, **kwargs)
        _open.add(generator)
        return generator

    return made


@atexit.register
def _close() -> None:
    for generator in list(_open):
        generator.close()
