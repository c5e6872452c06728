"""SIGTERM, SIGINT and SIGUSR1 in ten phases of the command line.

However far the run is, within ten seconds it has left with 75, has lost at most one step, and the same command goes on
to the straight run's losses and weights. While final_model is written, to finish and leave with 0 is as good. The first
phase is the import of torch: in the quarter of a second before it, while Python itself starts, a signal does what it
does to any program, and nothing has begun.

The command runs as a fork of a process that has imported everything; in the first two phases, and in every third round
in all of them, as a process of its own.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.commands import as_fork, as_process, write
from tests.torture.outcome import COUNTS, dice, made_once, workshop
from tests.torture.runs import config, ended, material, records, succeeded, tail, train, unlike

NAME = "signals"
DEFAULT = 240
FAST = 3
RESUMABLE = 75
PATIENCE_SECONDS = 10.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
ROWS = 1200

Ready = Callable[[Path, int], bool]


def trial(number: int, seed: int) -> str:
    """One signal in one phase."""
    rng = dice(NAME, seed, number)
    phase = list(PHASES)[number % len(PHASES)]
    sent = SIGNALS[number // len(PHASES) % len(SIGNALS)]
    whole = straight()
    place = workshop() / f"{NAME}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    values = request(place / "run", place / "cache" if phase == "tokenizing" else whole.parent / "cache")
    path = write(values, place / "config.yaml")
    alone = phase in ("starting", "reading the config") or number // 30 % 3 == 2
    child = (as_process if alone else as_fork)(path, place / "log")
    reached = wait_until(PHASES[phase], place, child)
    time.sleep(rng.random() * (0.3 if phase == "starting" else 0.03))
    steps_before = newest_step(place / "run")
    started = time.monotonic()
    os.kill(child, sent)
    code = ended(child, 60, signal.SIGKILL)
    seconds = time.monotonic() - started
    wrong = judged(code, seconds, reached, steps_before, place) or went_on(path, place, whole)
    COUNTS["most_milliseconds"] = int(1000 * seconds)
    COUNTS["signals"] += 1
    if wrong:
        return f"{sent.name} while {phase}: {wrong}"
    shutil.rmtree(place)
    return ""


def request(folder: Path, cache: Path) -> dict[str, Any]:
    """A run whose phases last long enough to be hit: many rows, a long evaluation, long samples."""
    model, _ = material()
    values = config(folder, model, material()[1].with_name("many.jsonl"), max_steps=6)
    values["data"] |= {"val_set_size": 200, "cache_dir": str(cache)}
    values["evaluation"] |= {"eval_steps": 3, "per_device_eval_batch_size": 2, "sample_prompts": ["add two", "if"],
                             "sample_steps": [4], "sample_max_new_tokens": 40}  # fmt: skip
    values["training"] |= {"auto": False}
    del values["training"]["max_tokens_per_micro_batch"]
    return values


def straight() -> Path:
    """The folder of the uninterrupted run."""
    material()

    def make(folder: Path) -> None:
        from tests.tiny import write_rows

        write_rows(material()[1].with_name("many.jsonl"), ROWS)
        succeeded(functools.partial(train, request(folder, folder.parent / "cache")), folder)

    return made_once(workshop() / "signalled" / "straight", make)


def seen(event: str, **fields: Any) -> Ready:
    """Whether the run has said something."""

    def ready(place: Path, child: int) -> bool:
        found = (record for record in records(place / "run") if record["event"] == event)
        return any(
            all(str(record.get(key)).startswith(str(value)) for key, value in fields.items()) for record in found
        )

    return ready


def there(pattern: str) -> Ready:
    """Whether a file or folder is there."""
    return lambda place, child: any(place.glob(pattern))


def mapped(library: str) -> Ready:
    """Whether the process has loaded a library."""

    def ready(place: Path, child: int) -> bool:
        try:
            return library in Path(f"/proc/{child}/maps").read_text()
        except OSError:
            return True

    return ready


PHASES: dict[str, Ready] = {
    "writing final_model": there("run/.inflight-final_model*"),
    "before the first step": seen("architecture"),
    "generating": seen("log", step=4),
    "saving": there("run/.inflight-checkpoint-*"),
    "in a step": seen("log", step=2),
    "evaluating": seen("log", step=3),
    "loading the model": seen("notice", text="loading "),
    "tokenizing": there("cache/*"),
    "reading the config": mapped("_yaml"),
    "starting": mapped("libtorch_cpu"),
}
"""Phase -> how it is known that it has begun."""


def wait_until(ready: Ready, place: Path, child: int) -> bool:
    """Wait for a phase; False when the process ended before."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        if ready(place, child):
            return True
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            return False
        time.sleep(0.001)
    return False


def newest_step(folder: Path) -> int:
    """The last step that was logged."""
    return max((record["step"] for record in records(folder) if record["event"] == "log"), default=0)


def judged(code: int, seconds: float, reached: bool, steps_before: int, place: Path) -> str:
    """What is wrong with how it ended."""
    log = place / "log"
    done = any(record["event"] == "run_finished" and record["status"] == "done" for record in records(place / "run"))
    if not reached:
        return f"the phase was never reached:\n{tail(log)}"
    if seconds > PATIENCE_SECONDS:
        return f"it took {seconds:.1f} s"
    if code != RESUMABLE and not (code == 0 and done):
        return f"ended with {code}:\n{tail(log, 6)}"
    if "Traceback" in (log.read_text() if log.exists() else ""):
        return f"a traceback:\n{tail(log)}"
    saved = max((int(p.name.split("-")[1]) for p in (place / "run").glob("checkpoint-*")), default=0)
    return f"step {saved} is saved, and step {steps_before} was done" if saved < steps_before - 1 else ""


def went_on(path: Path, place: Path, whole: Path) -> str:
    """The same command again; what then differs from the straight run."""
    code = ended(as_fork(path, place / "log"), 120, signal.SIGABRT)
    return f"the resume ended with {code}:\n{tail(place / 'log')}" if code else unlike(whole, place / "run")
