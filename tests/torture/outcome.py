"""What every torture suite is, and how its trials are run.

A suite is a module of this package, named in `SUITES`, with

    NAME: str           how it is called on the command line and in guide/reliability.json
    DEFAULT: int        trials of `make torture`
    FAST: int           trials of `make test`
    trial(number: int, seed: int) -> str        "" when it passed, else what is wrong

A trial is a pure function of seed and number: nothing else decides what it does, so one command replays it alone.
What trials share (a model, a straight run to compare with) is made at first use by a cached function, below
`workshop()`. What there is to count besides trials is added to `COUNTS`; a figure named `most_...` is a maximum.

Optional: `total(count)` says how many trials there are when `count` were asked for (a suite that goes through a list),
and `why_not() -> str` why the suite cannot run on this machine. A suite of another kind has
`run(count, seed) -> Outcome` instead of `trial`, or beside it, where it is for replays. A module imports nothing heavy
before its first trial: the process that hands out the trials imports all of them.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import importlib
import multiprocessing
import os
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUITES = (
    "kills",
    "cli_kills",
    "mutants",
    "corruption",
    "power",
    "anomalies",
    "full_disk",
    "signals",
    "neighbours",
    "ranks",
    "configs",
    "datasets",
    "models",
    "huge",
    "serving",
)
"""Modules of this package, in the order in which they run; one that is not there is left out."""

WORKSHOP = "LUTHIER_TORTURE_WORKSHOP"
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.torture.warm"])
COUNTS: Counter[str] = Counter()
"""Whatever the trials of this process have counted so far."""

Said = tuple[int, str, Counter[str]]


@dataclass
class Outcome:
    """What became of a suite."""

    name: str
    tried: int
    failures: list[tuple[int, str]] = field(default_factory=list)
    """(number of the trial, what was wrong)."""
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: str = ""
    """Why nothing was tried."""


def suites() -> dict[str, Any]:
    """Name -> module of every suite that is there."""
    there = [name for name in SUITES if (Path(__file__).parent / f"{name}.py").is_file()]
    return {name: importlib.import_module(f"tests.torture.{name}") for name in there}


def run_suite(suite: Any, count: int, seed: int, jobs: int, say: Callable[[str], None]) -> Outcome:
    """Run trials 0 ... count - 1 of a suite in `jobs` fresh processes."""
    why_not = suite.why_not() if hasattr(suite, "why_not") else ""
    if why_not:
        return Outcome(suite.NAME, 0, skipped=why_not)
    if hasattr(suite, "run"):
        outcome: Outcome = suite.run(count, seed)
        return outcome
    started = time.monotonic()
    outcome = Outcome(suite.NAME, 0)
    total = suite.total(count) if hasattr(suite, "total") else count
    counts: Counter[str] = Counter()
    said_at = started
    for number, wrong, counted in _tried(suite.__name__, total, seed, jobs):
        outcome.tried += 1
        add(counts, counted)
        if wrong:
            outcome.failures.append((number, wrong))
            say(f"{suite.NAME}: trial {number}: {wrong}\n    {replay(suite.NAME, seed, number)}")
        if time.monotonic() - said_at > 30:
            said_at = time.monotonic()
            say(f"{suite.NAME}: {outcome.tried:,} of {total:,} tried, {len(outcome.failures)} wrong")
    outcome.figures, outcome.seconds = dict(sorted(counts.items())), time.monotonic() - started
    outcome.failures.sort()
    return outcome


def replay(name: str, seed: int, number: int) -> str:
    """The command that runs one trial again."""
    return f"python -m tests.torture {name} --seed {seed} --only {number}"


def _tried(module: str, total: int, seed: int, jobs: int) -> Iterator[Said]:
    """What each trial said. Trials lie in runs of neighbours, so that little time is spent on handing them out."""
    size = max(1, min(500, total // (jobs * 8)))
    parts = [range(first, min(first + size, total)) for first in range(0, total, size)]
    with ProcessPoolExecutor(min(jobs, len(parts) or 1), mp_context=FORKS) as pool:
        for future in as_completed([pool.submit(_part, module, part, seed) for part in parts]):
            yield from future.result()


def _part(module: str, numbers: Iterable[int], seed: int) -> list[Said]:
    suite = importlib.import_module(module)
    return [one(suite, number, seed) for number in numbers]


def one(suite: Any, number: int, seed: int) -> Said:
    """One trial; an exception that it lets through is a failure, too."""
    before = COUNTS.copy()
    COUNTS.clear()
    try:
        wrong = suite.trial(number, seed)
    except Exception:
        wrong = traceback.format_exc()
    counted = COUNTS.copy()
    COUNTS.clear()
    COUNTS.update(before)
    return number, wrong, counted


def add(into: Counter[str], counted: Counter[str]) -> None:
    """Sums, and maxima of what is named `most_...`."""
    for name, value in counted.items():
        into[name] = max(into[name], value) if name.startswith("most_") else into[name] + value


def dice(suite: str, seed: int, number: int) -> random.Random:
    """The random numbers of one trial."""
    return random.Random(f"{suite} {seed} {number}")


@functools.cache
def workshop() -> Path:
    """A folder for all processes of this command, deleted when the first of them ends."""
    if WORKSHOP in os.environ:
        return Path(os.environ[WORKSHOP])
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    os.environ[WORKSHOP] = str(folder)
    mine = os.getpid()

    def clear() -> None:
        if os.getpid() == mine:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(memory(), ignore_errors=True)

    atexit.register(clear)
    return folder


@functools.cache
def bench() -> Path:
    """A folder of this process alone, in the workshop."""
    folder = workshop() / f"process-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    return folder


def memory() -> Path:
    """A folder like `workshop`, in memory where the system has such a thing: for what is written very often."""
    shared = Path("/dev/shm")
    folder = shared / workshop().name if shared.is_dir() else workshop() / "memory"
    folder.mkdir(exist_ok=True)
    return folder


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills; the first process that asks makes it, the others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder.with_name(f"{folder.name}.made")
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder
