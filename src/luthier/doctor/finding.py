"""What the doctor says, and the shape of a rule.

A rule is one function over the history of a run, and its docstring is what the user reads:

    @rule("warning", needs=logs(8))
    def loss_rising(run: History) -> Symptom | None:
        \"\"\"The loss rises. <- the title

        Why that matters, in words that a student understands. <- the finding's `why`

        When the rule fires, in words. <- for `luthier explain` and the guide
        \"\"\"

The function says what it saw (a `Symptom`) or None. `needs` says in words what is missing to judge at all; such a
rule is neither healthy nor sick.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from luthier.doctor.history import History

Severity = Literal["info", "warning", "critical"]
Confidence = Literal["low", "medium", "high"]
WORST_FIRST: tuple[Severity, ...] = ("critical", "warning", "info")


@dataclass(frozen=True)
class Change:
    """A line of YAML to change.

    Attributes:
        key: Dotted key, or its bare name where the plan is not known; of a log of another program, with the name that
            other programs have for it.
        old, new: As they stand in YAML; `old` is empty where it is not known.
    """

    key: str
    old: str
    new: str


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, with what shows it and what to do.

    Attributes:
        rule: Name of the rule, stable: ``loss-stuck``.
        step: The step that shows it best; None where there is none.
        evidence: Steps and numbers.
        why: What it means, in plain words.
        change: The lines of YAML to change; empty where no line helps.
        fix: What to do besides, or where no line helps: the next command; what the run's own error says to do. No
            finding has neither a change nor this.
        confidence: How sure the rule is.
    """

    rule: str
    severity: Severity
    step: int | None
    title: str
    evidence: str
    why: str
    change: tuple[Change, ...]
    confidence: Confidence
    fix: str = ""


@dataclass(frozen=True)
class Symptom:
    """What a rule saw. Empty fields take what the rule says of itself."""

    step: int | None
    evidence: str
    change: tuple[Change, ...] = ()
    confidence: Confidence = "medium"
    severity: Severity | None = None
    title: str = ""
    advice: str = ""
    """One more sentence after the rule's `why`: about this case."""
    why: str = ""
    """In place of the rule's."""
    fix: str = ""


Needs = Callable[[History], str]
Judge = Callable[[History], Symptom | None]
Applies = Callable[[History], bool]


def _nothing(_: History) -> str:
    return ""


def _always(_: History) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        severity: How bad it mostly is; a symptom may say otherwise.
        why: What it means.
        when: What it looks for.
        needs: Says in words what is missing to judge; empty when nothing is.
        replaces: Rules that say less about the same thing: their findings are left out beside one of this.
        applies: Whether it can say anything of a run of this kind at all: a rule about GPUs cannot of one on a CPU.
    """

    name: str
    severity: Severity
    title: str
    why: str
    when: str
    needs: Needs
    judge: Judge
    replaces: tuple[str, ...] = ()
    applies: Applies = _always

    def examine(self, run: History) -> Finding | None:
        """What this rule finds; None also when it cannot judge."""
        if not self.applies(run) or self.needs(run):
            return None
        symptom = self.judge(run)
        if symptom is None:
            return None
        return Finding(
            rule=self.name,
            severity=symptom.severity or self.severity,
            step=symptom.step,
            title=symptom.title or self.title,
            evidence=symptom.evidence,
            why=f"{symptom.why or self.why} {symptom.advice}".strip(),
            change=symptom.change,
            confidence=symptom.confidence,
            fix=symptom.fix,
        )


def rule(
    severity: Severity, *, needs: Needs = _nothing, replaces: tuple[str, ...] = (), applies: Applies = _always
) -> Callable[[Judge], Rule]:
    """Make a rule of a function: name and texts are the function's own."""

    def made(judge: Judge) -> Rule:
        title, why, when = (" ".join(part.split()) for part in (inspect.getdoc(judge) or "").split("\n\n"))
        name = judge.__name__.replace("_", "-")
        return Rule(name, severity, title.rstrip("."), why, when, needs, judge, replaces, applies)

    return made
