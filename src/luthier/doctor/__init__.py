"""Diagnosis: pure rules over the events of a run.

    run = History()
    for event, about in read("checkpoints/events.jsonl"):
        run = fold(run, event, about["time"])
    for finding in findings(run, now=time.time()):
        ...

The same code serves a run that goes on, a log of long ago (also one of another program) and the tests. A finding is a
function of what has been seen: it appears once for a rule, changes with the run, and is gone when its cause is.

Not covered: acting on it. The doctor changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

from luthier.doctor.finding import WORST_FIRST, Change, Finding, Rule
from luthier.doctor.history import History, fold
from luthier.doctor.rules import RULES

__all__ = ["RULES", "Change", "Finding", "History", "Rule", "applying", "findings", "fold", "unjudged"]


def findings(run: History, now: float) -> tuple[Finding, ...]:
    """What is wrong at this moment, worst first; at most one finding a rule.

    Args:
        run: What has been seen of it.
        now: The time, in seconds of the same clock.
    """
    run = replace(run, now=now)
    found = [(rule, finding) for rule in RULES if (finding := rule.examine(run))]
    replaced = {name for rule, finding in found if finding.severity != "info" for name in rule.replaces}
    kept = [finding for _, finding in found if finding.rule not in replaced]
    return tuple(sorted(kept, key=lambda finding: WORST_FIRST.index(finding.severity)))


def applying(run: History) -> tuple[Rule, ...]:
    """The rules that can say anything of a run of this kind."""
    return tuple(rule for rule in RULES if rule.applies(run))


def unjudged(run: History) -> dict[str, str]:
    """Rule -> what is missing to judge it, for the rules that apply and cannot be judged yet."""
    return {rule.name: missing for rule in applying(run) if (missing := rule.needs(run))}
