"""torch and what is built on it, imported without Python's collector, which would look for garbage all the while.

Half a million objects of modules come to stay. Looked through again and again as they grow, they cost a fifth of the
time until a command begins; looked through once more at the end, a second until it has left.

Nor is torch's compiler imported for functions that no command may ever call: it is another fifth.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import Any


def import_libraries() -> None:
    """Import the engine. What is there then is never looked through again, as it is no garbage."""
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        with _compiled_when_called():
            import luthier.api  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _compiled_when_called() -> Iterator[None]:
    """Let a module that hands functions to `torch.compile` as it is imported (bitsandbytes) get them compiled later."""
    import torch

    compiled_now = torch.compile

    def compiled_later(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
        if function is None:
            return partial(compiled_later, **options)
        compiled = cache(partial(compiled_now, function, **options))

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            return compiled()(*arguments, **named)

        return call

    torch.compile = compiled_later  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiled_now


def leave_quickly() -> None:
    """Let nothing be looked through when the process ends: all its memory goes back at once."""
    atexit.register(gc.freeze)
