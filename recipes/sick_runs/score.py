"""How well the doctor does on the labelled runs: precision and recall of each rule.

    python recipes/sick_runs/score.py            the table
    python recipes/sick_runs/score.py --runs     and what was found in each run
    python recipes/sick_runs/score.py --write    and scores.json beside the runs, for the guide and the tests

A run is followed as it grows, and diagnosed after every event that could change the answer: a finding at any moment
counts, also one that has cleared by the end. For a healthy run each is a false alarm. A sick run is named when a rule
that fits its label fires; what fires besides is listed, and is mostly a consequence (a rate that is too high spoils
the evaluations too). Thresholds were set with seeds 1 and 2 in view, and were
fixed before seed 3 was made.

Not covered: sicknesses that cannot be provoked here (tests/doctor/test_rules.py has constructed events for them).
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from labels import ACCEPTED, HEALTHY, SEEDS

from luthier.doctor import RULES, History, findings, fold
from luthier.events.record import from_record
from luthier.events.types import Evaluated, Event, RunFinished, Timing

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "doctor" / "runs"
SILENCE_SECONDS = 3600.0
"""How long after its last event a run is looked at that ended without a word."""


@dataclass(frozen=True)
class Scored:
    """One run and the rules that fired: rule -> the steps at which it did so first."""

    label: str
    name: str
    seed: int
    fired: dict[str, int]

    @property
    def named(self) -> bool:
        """Whether a rule that fits the label fired (of a healthy run: whether none did)."""
        return bool(set(ACCEPTED[self.label]) & set(self.fired)) if self.label != HEALTHY else not self.fired


def events(path: Path) -> Iterator[tuple[Event, float]]:
    """The events of a file with their times."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            event, about = from_record(json.loads(line))
            yield event, about["time"]


def follow(path: Path) -> dict[str, int]:
    """Rule -> step at which it fired first."""
    run, fired, last = History(), {}, 0.0
    for event, last in events(path):
        run = fold(run, event, last)
        if isinstance(event, Timing | Evaluated | RunFinished):
            for finding in findings(run, last):
                fired.setdefault(finding.rule, run.step)
    for finding in findings(run, last + SILENCE_SECONDS):
        fired.setdefault(finding.rule, run.step)
    return fired


def scored(path: Path) -> Scored:
    """Follow one file."""
    name, _, seed = path.name.removesuffix(".jsonl.gz").rpartition("-")
    return Scored(path.parent.name, name, int(seed), follow(path))


def table(results: list[Scored]) -> list[tuple[str, int, int, int, int]]:
    """(rule, fired where it fits, fired in a healthy run, fired as something else, sick runs it fits)."""
    rows = []
    for rule in RULES:
        fits = {label for label, rules in ACCEPTED.items() if rule.name in rules}
        fired = [result for result in results if rule.name in result.fired]
        healthy = sum(result.label == HEALTHY for result in fired)
        right = sum(result.label in fits for result in fired)
        sick = sum(result.label in fits for result in results)
        if fired or sick:
            rows.append((rule.name, right, healthy, len(fired) - right - healthy, sick))
    return rows


def by_seed(results: list[Scored]) -> dict[str, list[int]]:
    """Seed -> [healthy runs with a false alarm, healthy runs, sick runs named, sick runs]."""
    counts = {}
    for seed in SEEDS:
        healthy = [r for r in results if r.seed == seed and r.label == HEALTHY]
        sick = [r for r in results if r.seed == seed and r.label != HEALTHY]
        alarms, named = sum(not r.named for r in healthy), sum(r.named for r in sick)
        counts[str(seed)] = [alarms, len(healthy), named, len(sick)]
    return counts


def summary(results: list[Scored]) -> dict[str, dict[str, list[int]]]:
    """Of seeds, of labels ([runs named, runs]) and of rules ([fits, false alarms, besides, runs it should name])."""
    labels = {label: [result for result in results if result.label == label] for label in ACCEPTED}
    return {
        "seeds": by_seed(results),
        "labels": {label: [sum(r.named for r in found), len(found)] for label, found in labels.items()},
        "rules": {name: list(numbers) for name, *numbers in table(results)},
    }


def main() -> None:
    """Print the table, and what was missed."""
    results = [scored(path) for path in sorted(FOLDER.glob("*/*.jsonl.gz"))]
    write = sys.stdout.write
    write(f"{'rule':<26}{'fits':>6}{'false':>7}{'besides':>9}{'recall':>8}\n")
    for rule, right, healthy, besides, sick in table(results):
        recall = f"{right}/{sick}" if sick else ""
        write(f"{rule:<26}{right:>6}{healthy:>7}{besides:>9}{recall:>8}\n")
    for seed, (alarms, healthy, named, sick) in by_seed(results).items():
        write(
            f"seed {seed}: {alarms} of {healthy} healthy runs with a false alarm; {named} of {sick} sick runs named\n"
        )
    if "--write" in sys.argv:
        (FOLDER / "scores.json").write_text(json.dumps(summary(results), indent=1) + "\n", encoding="utf-8")
    for result in results:
        if not result.named or "--runs" in sys.argv:
            mark = "" if result.named else ("FALSE ALARM " if result.label == HEALTHY else "MISSED ")
            write(f"{mark}{result.label}/{result.name}-{result.seed}: {result.fired}\n")


if __name__ == "__main__":
    main()
