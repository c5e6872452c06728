"""What a process of a run knows of the agent that started it (`luthier.machine.torchrun`), and tells it.

A run that was stopped leaves with 0 and tells its agent in a file. A worker whose agent is gone saves and ends: nobody
else would end it. Without an agent all this is nothing. Needs no torch.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from luthier.errors import EXIT_RESUMABLE

EXIT_FILE = "LUTHIER_EXIT_FILE"
"""Environment variable: where a worker writes the exit code of a run that it leaves with 0."""
_BEGUN = "begun"
"""Beside that file, once workers of this agent have opened the folder of the run."""
AGENT = "LUTHIER_AGENT"
"""Environment variable: the agent's process number."""
_GOING = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
ORPHAN_SECONDS = 30
"""For workers whose agent is gone, to save and stop; then they end whatever they wait for."""
STOPPING = b"stopping: this step is finished and saved first (Ctrl-C again: now)\n"
_stop_asked = _goes_down = False


def told_to_stop() -> None:
    """This worker was sent a signal."""
    global _stop_asked
    _stop_asked = True


def going_down() -> None:
    """It fails with another one: the signal that its agent then sends asks for no save."""
    global _goes_down
    _goes_down = True


def signals_to_stop() -> list[signal.Signals]:
    """Those that ask a run to stop, as far as this system has them; a closed terminal (SIGHUP) not under nohup."""
    there = [getattr(signal, name) for name in _GOING if hasattr(signal, name)]
    return [one for one in there if one.name != "SIGHUP" or signal.getsignal(one) is not signal.SIG_IGN]


def leave(code: int) -> int:
    """The code that a worker leaves with: 0 when its agent gets `code` from a file."""
    place = os.environ.get(EXIT_FILE)
    if place and code == EXIT_RESUMABLE:
        Path(place).write_text(str(code), encoding="ascii")
        return 0
    if place:  # one of an attempt before this may have been interrupted
        Path(place).unlink(missing_ok=True)
    return code


def begin() -> None:
    """From now on an attempt is there to go on from, for workers that the agent starts again."""
    if place := os.environ.get(EXIT_FILE):
        Path(place).with_name(_BEGUN).touch()


def was_restarted() -> bool:
    """Whether the agent has started this worker again, after an attempt that had begun.

    It may know that on one machine only. torchrun counts the failures of each machine for itself: a machine that starts
    its workers again because another one did has none.
    """
    if place := os.environ.get(EXIT_FILE):
        return Path(place).with_name(_BEGUN).exists()
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def is_orphan() -> bool:
    """Whether the agent of this worker is gone: nobody would end this process with the others."""
    return os.environ.get(AGENT, str(os.getppid())) != str(os.getppid())


def watch_agent() -> None:
    """From now on end this process some time after its agent, whatever it waits for; it may save and stop before.

    And say that it stops, once it is clear that its agent did not send the signal because another rank has failed.
    """

    def watch() -> None:
        said = os.environ.get("RANK") != "0"
        while not is_orphan():
            time.sleep(1)
            if _stop_asked and not _goes_down and not said:
                said = True
                with suppress(OSError):
                    os.write(2, STOPPING)
        time.sleep(ORPHAN_SECONDS)
        os._exit(EXIT_RESUMABLE)

    if AGENT in os.environ:
        threading.Thread(target=watch, name="luthier-agent", daemon=True).start()


def is_gone(agent: int) -> bool:
    """Whether a process of this machine has ended."""
    try:
        return bool(psutil.Process(agent).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True
