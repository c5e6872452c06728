"""Whether the hub answers, asked once and briefly.

Libraries ask it a dozen times for one model. Where a firewall drops the questions, each of them waits for its own
timeout, and nothing is on the screen for minutes. Not covered: a hub behind a proxy, which is left to the libraries.
"""

from __future__ import annotations

import functools
import socket
import sys
import threading
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies

SECONDS = 4.0


@functools.cache
def out_of_reach() -> bool:
    """Whether no connection comes about within `SECONDS`; then libraries use what is on this machine from now on."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or getproxies():
        return False
    place, answered = urlsplit(constants.ENDPOINT), threading.Event()
    port = place.port or (80 if place.scheme == "http" else 443)

    def ask() -> None:
        with suppress(OSError):
            socket.create_connection((place.hostname or "", port), SECONDS).close()
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)  # asking for the address has no timeout of its own
    asking.start()
    asking.join(SECONDS)
    if answered.is_set():
        return False
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return True
