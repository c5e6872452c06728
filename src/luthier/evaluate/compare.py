"""Two models on the same tasks: what changed, how sure that is, and the sentence that says so.

Only tasks whose result changed tell the models apart (gained: only the second passes; lost: only the first). McNemar's
exact test asks whether they fall too unevenly for chance; the interval of the difference is Newcombe's for paired
shares. Where several comparisons are made at once, Holm's correction raises each p. p decides and not the interval,
which is no exact one: of few tasks it may leave out 0 where chance alone is not ruled out. Fewer than six tasks never
give a p below 0.05, whatever is answered.

Not covered: several answers a task (pass@k has no gained and lost).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from luthier.evaluate.answers import hashed
from luthier.evaluate.forgetting import Forgetting
from luthier.evaluate.score import Rate, Scores, as_dict
from luthier.evaluate.statistics import fewest_changed, holm, mcnemar, newcombe
from luthier.evaluate.tasks import TaskSet
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
        corrected: p, raised by Holm's correction for all comparisons that were made at once.
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
    corrected: float

    @property
    def better(self) -> bool:
        """Significantly more tasks gained than lost."""
        return self.corrected < SIGNIFICANT and len(self.gained) > len(self.lost)

    @property
    def worse(self) -> bool:
        """Significantly more tasks lost than gained."""
        return self.corrected < SIGNIFICANT and len(self.lost) > len(self.gained)


@dataclass(frozen=True)
class Comparison:
    """A tuned model beside its base, on one set of tasks.

    Attributes:
        tasks: What both were asked.
        run: The run's folder, or the tuned model.
        base_name: Its base model.
        numbers: In which numbers the base's weights were for both, such as `4-bit nf4`.
        base: What the base answered.
        tuned: What the tuned model answered.
        overall: Over all tasks.
        splits: Over each split, where there is more than one.
        forgetting: Of the two, on general text; None: not measured.
        at_once: How many comparisons were made together; `overall.corrected` takes them into account.
        needed: So many tasks must change, all in one direction, before any effect is significant.
    """

    tasks: TaskSet
    run: str
    base_name: str
    numbers: str
    base: Scores
    tuned: Scores
    overall: Change
    splits: tuple[Change, ...]
    forgetting: Forgetting | None = None
    at_once: int = 1
    needed: int = fewest_changed(SIGNIFICANT)

    @property
    def too_few(self) -> bool:
        """Whether no answers to so few tasks would have shown an effect."""
        return not (self.overall.better or self.overall.worse) and self.overall.base.tasks < self.needed

    @property
    def conclusion(self) -> str:
        """The shortest verdict: `better`, `worse`, `too few tasks` or `no effect shown`."""
        if self.too_few:
            return "too few tasks"
        return "better" if self.overall.better else "worse" if self.overall.worse else "no effect shown"

    @property
    def verdict(self) -> str:
        """What a reader needs to believe it: one sentence with every number, and what more it would have taken."""
        change, settings = self.overall, self.tuned.settings
        before, after = _share_and_interval(change.base), _share_and_interval(change.tuned)
        holms = f", with Holm's correction for {self.at_once} comparisons p {_p(change.corrected)}"
        numbers = (
            f"{_points(change.difference)} points (95 % CI {_points(change.low)} to {_points(change.high)}; "
            f"exact McNemar p {_p(change.p)}{holms if self.at_once > 1 else ''}, "
            f"{len(change.gained)} task{'s' * (len(change.gained) != 1)} gained, {len(change.lost)} lost)"
        )
        asked = f"{settings.decoding}, asked {settings.asked}, {self.tuned.judged}"
        how = f"On {change.base.tasks} task{'s' * (change.base.tasks != 1)} ({self.tasks.name}; {asked})"
        if change.better or change.worse:
            verb = "raised" if change.better else "lowered"
            return f"{how}, fine-tuning {verb} pass@1 from {before} to {after}: {numbers}."
        measured = f"{before} before, {after} after, {numbers}. {self._lacking()}".rstrip()
        if self.too_few:
            return f"{how}, too few to show any effect of fine-tuning on pass@1: {measured}"
        return f"{how}, no effect of fine-tuning on pass@1 was shown: {measured}"

    def _lacking(self) -> str:
        """What it takes to show an effect, where the changes were too few or the interval alone would show one."""
        change = self.overall
        least = f"at least {self.needed} tasks that change, all in one direction"
        if self.too_few:
            return f"Whatever the answers, p below {SIGNIFICANT:g} takes {least}: ask more."
        if len(change.gained) + len(change.lost) < self.needed:
            return f"p below {SIGNIFICANT:g}, which decides, takes {least}."
        if change.low > 0 or change.high < 0:
            return (
                f"The interval leaves out 0, but p decides, the stricter of the two: it is not below {SIGNIFICANT:g}."
            )
        return ""


def compare(
    base: Scores,
    tuned: Scores,
    tasks: TaskSet,
    run: str = "",
    base_name: str = "",
    numbers: str = "",
    forgetting: Forgetting | None = None,
) -> Comparison:
    """Put the scores of two models on the same tasks side by side."""
    names = tuned.splits if len(tuned.splits) > 1 else ()
    splits = tuple(_change(base, tuned, split) for split in names)
    return Comparison(tasks, run, base_name, numbers, base, tuned, _change(base, tuned, None), splits, forgetting)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons, each p raised for having made all of them at once."""
    values = [one.overall.p for one in comparisons]
    return [
        replace(
            one,
            overall=replace(one.overall, corrected=p),
            at_once=len(comparisons),
            needed=fewest_changed(SIGNIFICANT, [*values[:place], *values[place + 1 :]]),
        )
        for place, (one, p) in enumerate(zip(comparisons, holm(values), strict=True))
    ]


def record(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Everything that was asked, answered, measured and concluded, in plain values for a JSON file."""
    return {
        "luthier": __version__,
        "tasks": sets_as_dicts([one.tasks for one in comparisons]),
        "comparisons": [
            {
                "run": one.run,
                "tasks": one.tasks.name,
                "base_model": one.base_name,
                "base_weights": one.numbers,
                "verdict": one.verdict,
                "changes": [asdict(change) for change in (one.overall, *one.splits)],
                "comparisons_at_once": one.at_once,
                "forgetting": one.forgetting and one.forgetting.as_dict(),
                "base": as_dict(one.base),
                "tuned": as_dict(one.tuned),
            }
            for one in comparisons
        ],
    }


def sets_as_dicts(sets: Sequence[TaskSet]) -> list[dict[str, Any]]:
    """Each set once: its name, its tasks, and their hash."""
    asked = {one.name: [asdict(task) for task in one.tasks] for one in sets}
    return [
        {"name": name, "count": len(tasks), "sha256": hashed(tasks), "asked": tasks} for name, tasks in asked.items()
    ]


def _change(base: Scores, tuned: Scores, split: str | None) -> Change:
    before, after = base.solved(split=split), tuned.solved(split=split)
    assert before.keys() == after.keys(), "both models answer the same tasks"
    gained = tuple(task for task in after if after[task] > before[task])
    lost = tuple(task for task in after if after[task] < before[task])
    both = sum(before[task] == after[task] == 1 for task in after)
    low, high = newcombe(both, len(gained), len(lost), len(after) - both - len(gained) - len(lost))
    p = mcnemar(len(gained), len(lost))
    return Change(
        split="all" if split is None else split,
        base=base.pass_at(split=split),
        tuned=tuned.pass_at(split=split),
        difference=(len(gained) - len(lost)) / len(after),
        low=low,
        high=high,
        p=p,
        gained=gained,
        lost=lost,
        corrected=p,
    )


def _share_and_interval(rate: Rate) -> str:
    return f"{rate.share:.1%} (95 % CI {rate.low:.1%} to {rate.high:.1%})"


def _points(share: float) -> str:
    """A difference of shares in percentage points, with its sign; never a minus before a zero."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
