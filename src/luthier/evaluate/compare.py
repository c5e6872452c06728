"""Two models on the same tasks: what changed, how sure that is, and the sentence that says so.

Only tasks whose result changed tell the models apart (gained: only the second passes; lost: only the first). McNemar's
exact test asks whether they fall too unevenly for chance; the interval of the difference comes from drawing the tasks
again (paired bootstrap).

Not covered: several answers a task (pass@k has no gained and lost), more than two models in one test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luthier.evaluate.score import Rate, Scores, as_dict
from luthier.evaluate.statistics import bootstrap_mean, mcnemar
from luthier.evaluate.tasks.task import Task
from luthier.version import __version__

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Change:
    """Before and after on all tasks, or on those of one split.

    Attributes:
        split: Its name; `all` for all of them.
        base: What the base model reached.
        tuned: What the tuned model reached.
        difference: Share of the tuned minus share of the base.
        low: Lower end of the difference's 95 % interval.
        high: Upper end.
        p: Of McNemar's exact test, two-sided.
        gained: Tasks that only the tuned model passes.
        lost: Tasks that only the base passes.
    """

    split: str
    base: Rate
    tuned: Rate
    difference: float
    low: float
    high: float
    p: float
    gained: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def better(self) -> bool:
        """Significantly more tasks gained than lost."""
        return self.p < SIGNIFICANT and len(self.gained) > len(self.lost)

    @property
    def worse(self) -> bool:
        """Significantly more tasks lost than gained."""
        return self.p < SIGNIFICANT and len(self.lost) > len(self.gained)


@dataclass(frozen=True)
class Comparison:
    """A run beside its base.

    Attributes:
        run: The run's folder.
        base_name: Its base model.
        numbers: In which numbers the base's weights were for both, such as `4-bit nf4`.
        base: What the base answered.
        tuned: What the tuned model answered.
        overall: Over all tasks.
        splits: Over each split, where there is more than one.
    """

    run: str
    base_name: str
    numbers: str
    base: Scores
    tuned: Scores
    overall: Change
    splits: tuple[Change, ...]


def compare(base: Scores, tuned: Scores, run: str = "", base_name: str = "", numbers: str = "") -> Comparison:
    """Put the scores of two models on the same tasks side by side."""
    names = tuned.splits if len(tuned.splits) > 1 else ()
    splits = tuple(_change(base, tuned, split) for split in names)
    return Comparison(run, base_name, numbers, base, tuned, _change(base, tuned, None), splits)


def verdict(comparison: Comparison, tasks: str) -> str:
    """One sentence with everything that a reader needs to believe it.

    Args:
        comparison: What it is about.
        tasks: Name of the set.
    """
    change = comparison.overall
    before, after = _share_and_interval(change.base), _share_and_interval(change.tuned)
    numbers = (
        f"{_points(change.difference)} points (95 % CI {_points(change.low)} to {_points(change.high)}; "
        f"exact McNemar p {_p(change.p)}, {len(change.gained)} tasks gained, {len(change.lost)} lost)"
    )
    how = f"On {change.base.tasks} tasks ({tasks}; greedy, one answer a task, judged by running it)"
    if change.better or change.worse:
        verb = "raised" if change.better else "lowered"
        return f"{how}, fine-tuning {verb} pass@1 from {before} to {after}: {numbers}."
    return f"{how}, no effect of fine-tuning on pass@1 was shown: {before} before, {after} after, {numbers}."


def record(comparisons: Sequence[Comparison], name: str, tasks: Sequence[Task]) -> dict[str, Any]:
    """Everything that was asked, answered, measured and concluded, in plain values for a JSON file.

    Args:
        comparisons: One a run.
        name: Of the tasks.
        tasks: Those that were asked.
    """
    asked = [asdict(task) for task in tasks]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return {
        "luthier": __version__,
        "tasks": {"name": name, "count": len(tasks), "sha256": digest, "asked": asked},
        "decoding": "greedy, one answer a task",
        "comparisons": [
            {
                "run": one.run,
                "base_model": one.base_name,
                "base_weights": one.numbers,
                "verdict": verdict(one, name),
                "changes": [asdict(change) for change in (one.overall, *one.splits)],
                "base": as_dict(one.base),
                "tuned": as_dict(one.tuned),
            }
            for one in comparisons
        ],
    }


def _change(base: Scores, tuned: Scores, split: str | None) -> Change:
    before, after = base.solved(split=split), tuned.solved(split=split)
    assert before.keys() == after.keys(), "both models answer the same tasks"
    gained = tuple(task for task in after if after[task] > before[task])
    lost = tuple(task for task in after if after[task] < before[task])
    differences = [after[task] - before[task] for task in after]
    low, high = bootstrap_mean(differences)
    return Change(
        split="all" if split is None else split,
        base=base.pass_at(split=split),
        tuned=tuned.pass_at(split=split),
        difference=sum(differences) / len(differences),
        low=low,
        high=high,
        p=mcnemar(len(gained), len(lost)),
        gained=gained,
        lost=lost,
    )


def _share_and_interval(rate: Rate) -> str:
    return f"{rate.share:.1%} (95 % CI {rate.low:.1%} to {rate.high:.1%})"


def _points(share: float) -> str:
    """A difference of shares in percentage points, with its sign; never a minus before a zero."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
