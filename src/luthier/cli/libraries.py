"""torch and what is built on it, imported without Python's collector, which would look for garbage all the while.

Half a million objects of modules come to stay. Looked through again and again as they grow, they cost a fifth of the
time until a command begins; looked through once more at the end, a second until it has left.
"""

from __future__ import annotations

import atexit
import gc
import sys


def import_libraries() -> None:
    """Import the engine. What is there then is never looked through again, as it is no garbage."""
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        import luthier.api  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def leave_quickly() -> None:
    """Let nothing be looked through when the process ends: all its memory goes back at once."""
    atexit.register(gc.freeze)
