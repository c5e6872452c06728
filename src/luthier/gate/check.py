"""The shape of a check.

A check is one small function over the `Subject`, and its docstring is what the user reads:

    @check
    def rows_cut(subject: Subject) -> Result:
        \"\"\"Rows that are too long. <- the title

        Why it matters, in words that a student understands. <- why

        When it warns and when it fails. <- when

        What to do. <- remedy
        \"\"\"

It says `passed`, `warns` or `fails`, each with what it found. Its name is the function's, with dashes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from luthier.config.plan import Plan
    from luthier.data.prepare import Prepared

Verdict = Literal["passed", "warning", "failed", "allowed"]


@dataclass(frozen=True)
class Subject:
    """What is examined: all that a run is made of, but for the weights."""

    plan: Plan
    data: Prepared
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        found: What is there, with its numbers.
        fix: One line: what to write or do; empty takes the check's remedy.
        change: The line of YAML to change, where there is one.
    """

    verdict: Verdict
    found: str
    fix: str = ""
    change: str = ""


Examine = Callable[[Subject], Result]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: Stable, for ``--allow`` and the log.
        why: Why it matters.
        when: When it warns, when it fails.
        remedy: What to do then.
    """

    name: str
    title: str
    why: str
    when: str
    remedy: str
    examine: Examine


def check(examine: Examine) -> Check:
    """Make a check of a function: name and texts are the function's own."""
    title, why, when, remedy = (" ".join(part.split()) for part in (inspect.getdoc(examine) or "").split("\n\n"))
    return Check(examine.__name__.replace("_", "-"), title.rstrip("."), why, when, remedy, examine)


def passed(found: str) -> Result:
    """Nothing is wrong."""
    return Result("passed", found)


def warns(found: str, fix: str = "", change: str = "") -> Result:
    """Worth a look; the run starts."""
    return Result("warning", found, fix, change)


def fails(found: str, fix: str = "", change: str = "") -> Result:
    """The run would be wasted; it does not start."""
    return Result("failed", found, fix, change)
