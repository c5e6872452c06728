"""Two processes on one output folder, and a clock that jumps.

Of two runs on one folder, one is refused (E-CKPT-006) and writes nothing; the other comes out as the straight run.
A clock that jumps back and forth by years changes no number, neither does a kill and a resume under it.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.torture.kills import seconds_left
from tests.torture.outcome import COUNTS, dice, workshop
from tests.torture.runs import difference, ended, forked, records, start, straight, tail, train, variant

NAME = "neighbours"
DEFAULT = 200
FAST = 2
JUMPS = (-3e8, -3600.0, -1.0, 0.0, 1.0, 3600.0, 3e8)


def trial(number: int, seed: int) -> str:
    """One pair, or one run under a jumping clock."""
    rng, folder = dice(NAME, seed, number), workshop() / f"{NAME}-{number}"
    return two_at_once(rng, folder) if number % 2 == 0 else clock(rng, folder)


def two_at_once(rng: random.Random, folder: Path, plant: Callable[[], None] = lambda: None) -> str:
    """Two runs, the second a moment later; sometimes the first is killed and its lock must not outlive it."""
    seconds = straight("lora")[1]
    values = variant("lora", folder)
    logs = [folder.with_name(f"{folder.name}-{which}.log") for which in (1, 2)]

    def run() -> None:
        plant()
        train(values, resume="auto")

    first = start(run, logs[0])
    time.sleep(rng.random() * seconds * 0.8)
    second = start(run, logs[1])
    codes = [ended(child, 120, signal.SIGABRT) for child in (first, second)]
    wrong = _judged(codes, folder, logs)
    COUNTS["pairs"] += 1
    shutil.rmtree(folder, ignore_errors=True)
    return wrong


def _judged(codes: list[int], folder: Path, logs: list[Path]) -> str:
    if sorted(codes) == [0, 0] and len({record["attempt"] for record in records(folder)}) > 1 and not _apart(folder):
        return "both ran at once"
    for code, log in zip(codes, logs, strict=True):
        if code and "E-CKPT-006" not in log.read_text():
            return f"ended with {code}, not with E-CKPT-006:\n{tail(log)}"
        COUNTS["refused"] += bool(code)
    return difference("lora", folder) if 0 in codes else "both were refused"


def _apart(folder: Path) -> bool:
    """Whether the lines of the two attempts do not mix: the second began when the first was done."""
    attempts = [record["attempt"] for record in records(folder)]
    return attempts == sorted(attempts, key=attempts.index)


def clock(rng: random.Random, folder: Path) -> str:
    """A run that is killed once, while its wall clock jumps at every look."""
    values, log, start_seed = variant("lora", folder), folder.with_suffix(".log"), rng.random()

    def run() -> None:
        real, jumps = time.time, random.Random(start_seed)
        time.time = lambda: real() + jumps.choice(JUMPS)
        shown = time.strftime
        time.strftime = lambda text, when=None: shown(text, when or time.gmtime(time.time()))
        train(values, resume="auto")

    forked(run, log, rng.random() * seconds_left("lora", folder))
    code = forked(run, log)
    wrong = f"ended with {code}:\n{tail(log)}" if code else difference("lora", folder)
    for record in records(folder):
        if record["event"] == "log" and min(record["remaining_seconds"], record["step_seconds"]) < 0:
            wrong = wrong or f"time runs backwards: {record}"
    COUNTS["clock_jumped"] += 1
    shutil.rmtree(folder, ignore_errors=True)
    return wrong
