"""SIGKILL at random moments; the same command again, until the run is done.

Each trial kills ten times, in as many runs as that takes. A moment is drawn evenly from the time that the attempt would
still need. The losses of every step, those of evaluation, the samples and the final weights are then compared with
the uninterrupted run's: no bit may differ. A resume may never begin before the newest checkpoint that was announced.

Seed and number decide the moments in seconds; what the process does at that moment is up to the machine, so that a
replay kills near the same place.
"""

from __future__ import annotations

import functools
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.outcome import COUNTS, dice, workshop
from tests.torture.runs import NAMES, difference, forked, records, straight, tail, train, variant

NAME = "kills"
DEFAULT = 1000
FAST = 4
KILLS = 10
START_SHARE = 0.3
"""Of the uninterrupted run's time, before its first step."""

Attempt = Callable[[dict[str, Any], Path, float | None], int]


def trial(number: int, seed: int) -> str:
    """Ten kills."""
    return tortured(NAMES[number % len(NAMES)], dice(NAME, seed, number), workshop() / f"{NAME}-{number}", attempt)


def attempt(values: dict[str, Any], log: Path, kill_after: float | None) -> int:
    """One attempt, as a fork of this process."""
    return forked(functools.partial(train, values, resume="auto"), log, kill_after)


def tortured(
    name: str, rng: random.Random, folder: Path, start: Attempt, kills: int = KILLS, before: float = 0.0
) -> str:
    """Runs of a variant that are killed and resumed; empty when all of them came out as the straight one.

    `before`: seconds that an attempt takes before it does what a fork does at once.
    """
    done = 0
    while True:
        killed, wrong = _until_done(name, rng, folder, start, kills - done, before)
        done += killed
        COUNTS["kills"] += killed
        COUNTS["runs"] += 1
        COUNTS["runs_that_differ"] += bool(wrong)
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".log").unlink(missing_ok=True)
        if wrong:
            return f"{name}, after {killed} kills: {wrong}"
        if done >= kills:
            return ""


def _until_done(
    name: str, rng: random.Random, folder: Path, start: Attempt, kills: int, before: float
) -> tuple[int, str]:
    """One run; the number of its kills, and what is wrong."""
    values, log, killed = variant(name, folder), folder.with_suffix(".log"), 0
    while True:
        kill_after = rng.random() * (before + seconds_left(name, folder)) if killed < kills else None
        code = start(values, log, kill_after)
        if code == 0:
            break
        if code != -signal.SIGKILL:
            return killed, f"an attempt ended with {code}:\n{tail(log)}"
        killed += 1
        where_it_died(folder)
    left = [path.name for prefix in (".inflight-*", ".trash-*") for path in folder.glob(prefix)]
    return killed, lost(folder) or difference(name, folder) or (f"{left} is left over" if left else "")


def seconds_left(name: str, folder: Path) -> float:
    """About how long the next attempt would run."""
    whole, seconds = straight(name)
    last = max(int(path.name.split("-")[1]) for path in whole.glob("checkpoint-*"))
    saved = max((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")), default=0)
    return seconds * (START_SHARE + (1 - START_SHARE) * (1 - min(saved, last) / last))


def where_it_died(folder: Path) -> None:
    """Count kills in the middle of a save or of a deletion."""
    if any(folder.glob(".inflight-*")):
        COUNTS["kills_inside_a_save"] += 1
    elif any(folder.glob(".trash-*")):
        COUNTS["kills_inside_a_deletion"] += 1
    if not any(folder.glob("checkpoint-*")):
        COUNTS["kills_before_the_first_checkpoint"] += 1


def lost(folder: Path) -> str:
    """Whether an attempt began before the newest checkpoint that an earlier one announced."""
    newest = 0
    for record in records(folder):
        if record["event"] == "checkpoint_saved":
            newest = max(newest, record["step"])
        if record["event"] == "run_started" and record["first_step"] < newest:
            return f"resumed at step {record['first_step']} although step {newest} had been saved"
    return ""
