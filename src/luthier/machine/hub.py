"""Whether the hub answers, asked briefly, and once where it does.

Libraries ask it a dozen times for one model. Where a firewall drops the questions, each of them waits for its own
timeout, and nothing is on the screen for minutes. Not covered: a hub behind a proxy, which is left to the libraries.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies

SECONDS = 4.0
AGAIN_SECONDS = 60.0
"""How long a hub that did not answer counts as away: a notebook lives on when the network is back."""


class _Known:
    """What was found last; times of `time.monotonic`."""

    answers = False
    away_until = 0.0


def out_of_reach() -> bool:
    """Whether no connection comes about within `SECONDS`; then libraries use what is on this machine, for a while."""
    from huggingface_hub import constants

    if _Known.answers:
        return False
    if time.monotonic() < _Known.away_until:
        return True
    if _Known.away_until:
        _libraries_stay_offline(False)
    if constants.HF_HUB_OFFLINE or getproxies():
        return False
    _Known.answers = _is_there(constants.ENDPOINT)
    if not _Known.answers:
        _Known.away_until = time.monotonic() + AGAIN_SECONDS
        _libraries_stay_offline(True)
    return not _Known.answers


def _is_there(endpoint: str) -> bool:
    place, answered = urlsplit(endpoint), threading.Event()
    port = place.port or (80 if place.scheme == "http" else 443)

    def ask() -> None:
        with suppress(OSError):
            socket.create_connection((place.hostname or "", port), SECONDS).close()
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)  # asking for the address has no timeout of its own
    asking.start()
    asking.join(SECONDS)
    return answered.is_set()


def _libraries_stay_offline(stay: bool) -> None:
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = stay
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = stay
