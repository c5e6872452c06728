"""Runs torture suites.

    python -m tests.torture                              all of them with their full counts: hours
    python -m tests.torture --fast                       all of them with the counts of `make test`: a minute
    python -m tests.torture kills --count 500 --seed 3   one of them
    python -m tests.torture kills --seed 3 --only 17     one trial again

`--json FILE` writes what came out; suites that were not run keep what stands there. Exit code 1: something was wrong.
"""

from __future__ import annotations

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.torture.outcome import Outcome, one, replay, run_suite, suites, workshop

ROOT = Path(__file__).parents[2]
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors")


def main() -> int:
    """Returns the exit code."""
    wanted = arguments()
    workshop()
    there = suites()
    if unknown := [name for name in wanted.names if name not in there]:
        sys.exit(f"no suite {', '.join(unknown)}; there are {', '.join(there)}")
    chosen = {name: suite for name, suite in there.items() if not wanted.names or name in wanted.names}
    if wanted.only is not None:
        return again(chosen, wanted.seed, wanted.only)
    wrong = 0
    for suite in chosen.values():
        count = wanted.count or (suite.FAST if wanted.fast else suite.DEFAULT)
        outcome = run_suite(suite, count, wanted.seed, wanted.jobs, say)
        say(line(outcome))
        wrong += len(outcome.failures)
        if wanted.json:
            write(wanted.json, outcome, wanted.seed)
    return 1 if wrong else 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="suites; default: all")
    parser.add_argument("--count", type=int, help="trials of each suite; default: its full count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="N", help="run this one trial, here")
    parser.add_argument("--fast", action="store_true", help="the counts of `make test`")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes; default: one a core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes")
    return parser.parse_args()


def again(chosen: dict[str, Any], seed: int, number: int) -> int:
    """Replay one trial in this process."""
    for suite in chosen.values():
        _, wrong, counted = one(suite, number, seed)
        say(f"{suite.NAME}: trial {number} of seed {seed}: {wrong or 'passed'}  {dict(counted) or ''}")
        if wrong:
            return 1
    return 0


def say(text: str) -> None:
    """A line, at once."""
    print(text, flush=True)


def line(outcome: Outcome) -> str:
    """One line about a suite."""
    if outcome.skipped:
        return f"{outcome.name:<12} SKIPPED: {outcome.skipped}"
    figures = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in outcome.figures.items())
    return (
        f"{outcome.name:<12} {len(outcome.failures)} wrong of {outcome.tried:,} in {outcome.seconds:.0f} s; {figures}"
    )


def write(path: Path, outcome: Outcome, seed: int) -> None:
    """Put a suite's outcome into the file, with what it was measured with."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    failures = [{"trial": n, "wrong": text, "replay": replay(outcome.name, seed, n)} for n, text in outcome.failures]
    known[outcome.name] = {
        **asdict(outcome),
        "seconds": round(outcome.seconds, 1),
        "failures": failures,
        "failed": len(failures),
        "seed": seed,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "machine": f"{platform.system()} {platform.release().partition('-')[0]}, {os.cpu_count()} cores",
    }
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def commit() -> str:
    """The commit that was tried; `+` when files differed from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=10"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
