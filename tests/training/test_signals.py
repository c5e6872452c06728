"""A request to stop: heard once, however often it comes, and whoever has stopped listening."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from luthier.training.signals import Interrupted, stop_on_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of other systems")

LISTENS = """
import sys, time
from luthier.training.signals import stop_on_signals
with stop_on_signals() as stop:
    print("ready", flush=True)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        pass
sys.exit(75 if stop() else 1)
"""


def listener() -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", LISTENS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


def test_a_storm_of_signals_does_not_lock_the_handler_up():
    child = listener()
    until = time.monotonic() + 0.8
    while time.monotonic() < until:
        os.kill(child.pid, signal.SIGTERM)
    assert child.wait(20) == 75
    child.communicate()


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_asks_for_a_stop_unless_nohup_said_no(ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop() is not ignored
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_reader_of_stderr_that_is_gone_is_no_reason_to_lose_the_run():
    child = listener()
    assert child.stderr is not None
    child.stderr.close()
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(20) == 75
    child.stdout.close()


def test_it_is_said_once_so_that_no_pipe_fills_up(capfd):
    with stop_on_signals():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err.count("\n") == 1


def test_once_it_finishes_the_step_and_twice_it_interrupts():
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)


def test_with_nothing_to_finish_the_first_one_interrupts():
    with stop_on_signals() as stop:
        stop.at_once = True
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop()


def test_a_library_that_swallows_it_and_fails_of_that_was_interrupted():
    with pytest.raises(Interrupted), stop_on_signals() as stop:
        stop.at_once = True
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        raise ImportError("cannot load module more than once per process")


def test_what_fails_by_itself_is_no_interruption():
    with pytest.raises(ImportError), stop_on_signals() as stop:
        stop.at_once = True
        raise ImportError("no such module")
