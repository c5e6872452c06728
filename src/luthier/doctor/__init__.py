"""Diagnosis: pure rules over the events of a run.

    doctor = Doctor()
    for event, about in read("checkpoints/events.jsonl"):
        doctor = examine(doctor, event, about["time"])
    for finding in findings(doctor, now=time.time()):
        ...

The same code serves a run that goes on, a log of long ago (also one of another program) and the tests. A finding is a
function of what has been seen: it appears once for a rule, changes with the run, and is gone when its cause is.

Not covered: acting on it. The doctor changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from luthier.doctor.finding import WORST_FIRST, Change, Finding, Rule
from luthier.doctor.history import History, fold
from luthier.doctor.rules import RULES
from luthier.events.types import Event

__all__ = ["RULES", "Change", "Doctor", "Finding", "Rule", "examine", "findings", "unjudged"]


@dataclass(frozen=True)
class Doctor:
    """What has been seen of a run; of bounded size."""

    history: History = field(default_factory=History)


def examine(doctor: Doctor, event: Event, time: float) -> Doctor:
    """See one more event.

    Args:
        doctor: The state before.
        event: What happened.
        time: When, in seconds of any clock that the caller keeps to; 0 or NaN where it is not known.
    """
    return Doctor(fold(doctor.history, event, time))


def findings(doctor: Doctor, now: float) -> tuple[Finding, ...]:
    """What is wrong at this moment, worst first; at most one finding a rule.

    Args:
        doctor: What has been seen.
        now: The time, in seconds of the same clock.
    """
    run = replace(doctor.history, now=now)
    found = [(rule, finding) for rule in RULES if (finding := rule.examine(run))]
    replaced = {name for rule, finding in found if finding.severity != "info" for name in rule.replaces}
    kept = [finding for _, finding in found if finding.rule not in replaced]
    return tuple(sorted(kept, key=lambda finding: WORST_FIRST.index(finding.severity)))


def unjudged(doctor: Doctor) -> dict[str, str]:
    """Rule -> what is missing to judge it, for the rules that cannot be judged yet."""
    return {rule.name: missing for rule in RULES if (missing := rule.needs(doctor.history))}
