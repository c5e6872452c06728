"""What the terminal and the page say alike of a comparison: rates, differences, causes, and which tasks tell the most.

Plain text; who shows it strips or escapes what a model or a tasks file wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from luthier.evaluate.compare import Change, Comparison
from luthier.evaluate.score import Outcome, Rate, Scores
from luthier.evaluate.tasks.task import Task


def points(change: Change) -> str:
    """The difference in percentage points, with its interval."""
    return f"{100 * change.difference:+.1f} ({100 * change.low:+.0f} to {100 * change.high:+.0f})"


def p_value(p: float) -> str:
    """In three digits."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def percent(rate: Rate, interval: bool = True) -> str:
    """A share in percent, with its interval unless that is left out."""
    return f"{100 * rate.share:.1f}" + (f" ({100 * rate.low:.0f} to {100 * rate.high:.0f})" if interval else "")


def causes(scores: Scores) -> str:
    """How many answers passed, and how many failed of what."""
    return ", ".join(f"{count} {cause}" for cause, count in scores.causes.items())


def telling_tasks(comparison: Comparison) -> Iterator[Task]:
    """In turn the first gained, the first lost, the first that did not change, then the second of each."""
    change = comparison.overall
    groups: tuple[list[Task], ...] = ([], [], [])
    for task in comparison.tasks.tasks:
        groups[0 if task.task_id in change.gained else 1 if task.task_id in change.lost else 2].append(task)
    return (task for turn in zip_longest(*groups) for task in turn if task is not None)


def outcome_of(scores: Scores, task: Task) -> Outcome:
    """The first answer to a task."""
    return next(outcome for outcome in scores.outcomes if outcome.task_id == task.task_id)
