"""The C library's heap, where it keeps memory that could be given back.

Source: mallopt(3). Not covered: other libraries than glibc; they are left as they are.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LEAST = 1 << 20
"""Bytes from which a piece of memory is mapped for itself."""


def give_back_at_once() -> None:
    """Let glibc map tensors from 1 MiB on one by one, so that freeing one gives its memory back.

    By itself it learns to keep pieces of up to 32 MiB in its heap. Weights that are gathered and freed a layer at a
    time leave holes there, and in the end the process holds what sharding has saved.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _LEAST)
        library.mallopt(_M_TRIM_THRESHOLD, _LEAST)
