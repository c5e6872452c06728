"""Runs that load side by side and train in turns."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from luthier.bench.turn import VARIABLE, Turn, wait_for_turn


def test_a_run_waits_for_its_turn_and_the_wait_is_not_counted(tmp_path, monkeypatch):
    turn, done = Turn(tmp_path / "trl.turn"), []
    monkeypatch.setenv(VARIABLE, str(turn.place))

    def run():
        wait_for_turn()
        done.append("trained")
        return "losses", 99.0

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run)
        while not turn.is_awaited:
            time.sleep(0.01)
        time.sleep(0.5)
        assert not done
        found, seconds = turn.taken(future)
    assert found == "losses" and done and seconds < 0.5


def test_a_run_that_fails_before_its_turn_says_why(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Turn(tmp_path / "trl.turn").taken(future)


def test_nobody_waits_who_was_not_told_to(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    wait_for_turn(sleep=None)
