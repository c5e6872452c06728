"""What the rules may look at: the history of a run, of bounded size, as a pure fold over its events.

The whole curve is kept thinned (every second line goes when it is full), its beginning and its latest lines in full,
so that memory and the time of a diagnosis do not grow with the length of a run.

Not covered: the weights, the rows, and everything else that is not in an event.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from luthier.events.types import (
    Architecture,
    Checked,
    CheckpointSaved,
    Evaluated,
    Event,
    Gradients,
    Log,
    Machine,
    Notice,
    Resumed,
    RunFinished,
    RunStarted,
    Timing,
    on_pairs,
)

LONGEST = 400
"""Log lines kept of the whole run; when there are more, every second one goes."""
BEGINNING = 16
RECENT = 64
_KEPT = 32

_T = TypeVar("_T")


class _OfAStep(Protocol):
    @property
    def step(self) -> int: ...


_S = TypeVar("_S", bound=_OfAStep)


@dataclass(frozen=True)
class Thinned(Generic[_S]):
    """A curve of any length, of which at most `limit` points are kept, at even distances.

    Attributes:
        limit: When there are more, every second one goes.
        items: Those that are kept: every `stride`-th.
        seen: How many there were.
    """

    limit: int
    items: tuple[_S, ...] = ()
    stride: int = 1
    seen: int = 0

    def add(self, item: _S) -> Thinned[_S]:
        """With one more point, if it is its turn."""
        items, stride = self.items, self.stride
        if self.seen % stride == 0:
            items = (*items, item)
            if len(items) > self.limit:
                items, stride = items[::2], stride * 2
        return Thinned(self.limit, items, stride, self.seen + 1)

    def until(self, step: int) -> Thinned[_S]:
        """Without what came after `step`."""
        return replace(self, items=until(self.items, step))


@dataclass(frozen=True)
class History:
    """A run as far as it has come.

    Attributes:
        plan: Dotted key -> value; empty for a text log and for another program's.
        ours: Whether Luthier trains it, so that its YAML has Luthier's keys.
        program: The name of the one that trains it, as in `luthier.doctor.elsewhere`; empty: Luthier, or not known.
        vocabulary: Entries of the model's vocabulary; 0 where it is not known.
        parameters: Of the base and what is trained beside it; 0 where it is not known.
        beginning, curve, recent: Log lines with a finite loss: the first ones, all thinned, and the latest.
        not_finite: The first log line whose loss is NaN or infinite.
        before_resume: The latest log lines when the run was resumed last.
        started, updated: Time of the first and the latest event, in seconds of the caller's clock; 0: not known.
        log_gaps: Seconds between neighbouring log lines.
        longest_gap: Longest silence so far, in seconds.
        now: The time at which the run is looked at.
    """

    plan: Mapping[str, Any] = field(default_factory=dict)
    ours: bool = False
    program: str = ""
    total_steps: int = 0
    epochs: float = 0.0
    vocabulary: int = 0
    parameters: int = 0
    step: int = 0
    beginning: tuple[Log, ...] = ()
    curve: Thinned[Log] = field(default_factory=lambda: Thinned(LONGEST))
    recent: tuple[Log, ...] = ()
    not_finite: Log | None = None
    evaluations: tuple[Evaluated, ...] = ()
    best: Evaluated | None = None
    timings: tuple[Timing, ...] = ()
    machines: tuple[Machine, ...] = ()
    gradients: tuple[Gradients, ...] = ()
    checkpoint: CheckpointSaved | None = None
    saved: int = 0
    """Checkpoints written."""
    resumed: Resumed | None = None
    before_resume: tuple[Log, ...] = ()
    said: tuple[Notice, ...] = ()
    """Those that were critical or warnings, each with the step at which it came."""
    finished: RunFinished | None = None
    started: float = 0.0
    updated: float = 0.0
    logged_at: float = 0.0
    log_gaps: tuple[float, ...] = ()
    longest_gap: float = 0.0
    now: float = 0.0

    @property
    def on_pairs(self) -> bool:
        """Whether it learns from pairs of answers: its loss is then none of tokens."""
        return on_pairs(self.plan, (*self.recent[-1:], *self.evaluations[-1:]))

    @property
    def whole(self) -> tuple[Log, ...]:
        """The lines that are kept of the whole run."""
        return self.curve.items

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the plan; `default` where it is not known."""
        return self.plan.get(key, default)


def fold(run: History, event: Event, time: float) -> History:
    """The history after one more event.

    Args:
        run: The history before.
        event: What happened; kinds that it does not know change nothing but the time.
        time: When, in seconds of any clock that the caller keeps to; 0 or NaN: not known.
    """
    run = _at(run, time)
    match event:
        case RunStarted():
            return _started(run, event)
        case Log():
            return _logged(run, event, time)
        case Evaluated():
            return _evaluated(run, event)
        case Resumed():
            back = _back_to(run, event.step)
            return replace(back, resumed=event, before_resume=back.recent[-BEGINNING:])
        case _:
            return _noted(run, event)


def _noted(run: History, event: Event) -> History:
    """The history with an event that is only kept."""
    match event:
        case Architecture():
            return replace(run, vocabulary=_vocabulary(event), parameters=event.parameters)
        case Timing():
            return replace(run, timings=_last(run.timings, event))
        case Machine():
            return replace(run, machines=_last(run.machines, event))
        case Gradients():
            return replace(run, gradients=_last(run.gradients, replace(event, buckets={}), 8))
        case CheckpointSaved():
            return replace(run, step=event.step, checkpoint=event, saved=run.saved + 1)
        case Notice() if event.severity != "info":
            return _told(run, event)
        case Checked() if notice := event.notice():
            return _told(run, notice)
        case RunFinished():
            return replace(run, step=event.step, finished=event, ours=run.ours or bool(event.code))
        case _:
            return run


def _told(run: History, notice: Notice) -> History:
    return replace(run, said=_last(run.said, notice if notice.step is not None else replace(notice, step=run.step), 16))


def _at(run: History, time: float) -> History:
    if not time > 0:
        return run
    gap = time - run.updated if run.updated else 0.0
    return replace(run, started=run.started or time, updated=time, longest_gap=max(run.longest_gap, gap))


def _evaluated(run: History, event: Evaluated) -> History:
    better = math.isfinite(event.eval_loss) and (run.best is None or event.eval_loss < run.best.eval_loss)
    kept = thinned((*run.evaluations, event))
    return replace(run, step=event.step, evaluations=kept, best=event if better else run.best)


def _started(run: History, event: RunStarted) -> History:
    """A new attempt: from nothing, or after what an earlier one had done by its first step."""
    earlier = _back_to(run, event.first_step) if event.first_step else History()
    if earlier.recent:
        # Other programs do not say that they resume; Luthier does, next.
        earlier = replace(earlier, resumed=Resumed(event.first_step, ""), before_resume=earlier.recent[-BEGINNING:])
    return replace(
        earlier,
        plan=event.plan,
        ours=event.program == "luthier",
        program="" if event.program == "luthier" else event.program,
        total_steps=event.total_steps,
        epochs=event.epochs,
        step=event.first_step,
        started=run.updated,
        updated=run.updated,
        logged_at=0.0,
        longest_gap=0.0,
        timings=(),
        machines=(),
        said=(),
        finished=None,
    )


def _back_to(run: History, step: int) -> History:
    """Forget what came after `step`."""
    evaluations = until(run.evaluations, step)
    finite = [event for event in evaluations if math.isfinite(event.eval_loss)]
    return replace(
        run,
        step=step,
        beginning=until(run.beginning, step),
        curve=run.curve.until(step),
        recent=until(run.recent, step),
        not_finite=run.not_finite if run.not_finite and run.not_finite.step <= step else None,
        evaluations=evaluations,
        best=min(finite, key=lambda event: event.eval_loss, default=None),
        gradients=until(run.gradients, step),
        finished=None,
    )


def until(items: tuple[_S, ...], step: int) -> tuple[_S, ...]:
    """Without what came after `step`."""
    return tuple(item for item in items if item.step <= step)


def _logged(run: History, event: Log, time: float) -> History:
    known = time > 0
    gaps = (*run.log_gaps, time - run.logged_at)[-_KEPT:] if known and run.logged_at else run.log_gaps
    run = replace(run, step=event.step, log_gaps=gaps, logged_at=time if known else run.logged_at)
    if not math.isfinite(event.loss):
        return run if run.not_finite else replace(run, not_finite=event)
    return replace(
        run,
        beginning=(*run.beginning, event) if len(run.beginning) < BEGINNING else run.beginning,
        curve=run.curve.add(event),
        recent=_last(run.recent, event, RECENT),
    )


def _last(items: tuple[_T, ...], item: _T, keep: int = _KEPT) -> tuple[_T, ...]:
    return (*items, item)[-keep:]


def thinned(items: tuple[_T, ...]) -> tuple[_T, ...]:
    """Of more than `LONGEST` items the older half loses every second one; the latest stay whole."""
    half = LONGEST // 2
    return items if len(items) <= LONGEST else (*items[:half:2], *items[half:])


def _vocabulary(event: Architecture) -> int:
    """Rows of the first embedding."""
    for module in event.modules:
        rows = str(module.get("shape", "")).partition("x")[0].strip()
        if "Embedding" in str(module.get("type", "")) and rows.isdigit():
            return int(rows)
    return 0
