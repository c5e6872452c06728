"""The state of a run as a pure fold over its events: the same events give the same state, live or from a file.

    state = RunState()
    for event, about in read("checkpoints/events.jsonl"):
        state = fold(state, event, about["time"])

The smoothed loss is what the doctor calls the level: the median of the latest three log lines. A mean over more of them
would tell of a short run where it has been, not where it stands.

A number that the log of another program does not have is NaN. Where only the seconds of a step are missing, they are
taken from the times at which two log lines came.

Not covered: what the numbers look like (`luthier.monitor.view`), and whether they are healthy (`luthier.doctor`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from luthier.doctor.evidence import level
from luthier.doctor.history import Thinned, thinned, until
from luthier.events.line import memory_line, rehearsed_line, time_line
from luthier.events.types import (
    Architecture,
    Checked,
    CheckpointSaved,
    Evaluated,
    Event,
    Log,
    Machine,
    MemoryForecast,
    Notice,
    Rehearsed,
    Resumed,
    RunFinished,
    RunStarted,
    Sampled,
    TimeForecast,
    Timing,
    on_pairs,
)

Status = Literal["starting", "training", "done", "stopped", "failed"]

LONGEST_HISTORY = 2000
RECENT = 500
_KEPT = 50
_KEPT_TIMINGS = 20


class Point(NamedTuple):
    """One log line, as far as it is drawn; NaN where it is not known."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float = math.nan
    tokens_per_second: float = math.nan
    step_seconds: float = math.nan
    memory_gib: float = math.nan
    gpu_utilization: float = math.nan
    reward_margin: float = math.nan
    reward_accuracy: float = math.nan


@dataclass(frozen=True)
class RunState:
    """What there is to know of a run at one moment.

    Attributes:
        ours: Whether Luthier trains it, whose log tells of every checkpoint.
        started, updated: Clock of the caller, in seconds, at the first and the latest event of this attempt.
        logged_at: The same clock at the latest log line of this attempt; 0 before it.
        first_step: The step that this attempt goes on from.
        curve: The log lines, thinned out past `LONGEST_HISTORY`.
        recent: The latest `RECENT` log lines, every one of them.
        first_loss: None until a finite loss was seen.
        lowest: The log line with the least loss.
        log, machine: The latest of each.
        forecast: Of this attempt's time, the latest one; `forecast_at` is when it came, on the same clock.
        timings: The latest ones, oldest first.
        evaluations: All, oldest first; of many, the older half is thinned out.
        samples, notices: The latest ones, oldest first.
    """

    status: Status = "starting"
    run: str = ""
    plan: dict[str, Any] = field(default_factory=dict)
    ours: bool = True
    total_steps: int = 0
    epochs: float = 0.0
    step: int = 0
    epoch: float = 0.0
    started: float = 0.0
    updated: float = 0.0
    logged_at: float = 0.0
    first_step: int = 0
    parameters: int = 0
    trainable_parameters: int = 0
    curve: Thinned[Point] = field(default_factory=lambda: Thinned(LONGEST_HISTORY))
    recent: tuple[Point, ...] = ()
    first_loss: float | None = None
    lowest: Point | None = None
    log: Log | None = None
    machine: Machine | None = None
    forecast: TimeForecast | None = None
    forecast_at: float = 0.0
    timings: tuple[Timing, ...] = ()
    evaluations: tuple[Evaluated, ...] = ()
    best: Evaluated | None = None
    samples: tuple[Sampled, ...] = ()
    notices: tuple[Notice, ...] = ()
    checkpoint: CheckpointSaved | None = None
    resumed: Resumed | None = None
    finished: RunFinished | None = None

    @property
    def on_pairs(self) -> bool:
        """Whether it learns from pairs of answers: its loss is then none of tokens, and it has rewards."""
        return on_pairs(self.plan, (self.log, *self.evaluations[-1:]))

    @property
    def max_grad_norm(self) -> float:
        """What gradients are shortened to; NaN where they are not, or nobody knows."""
        return self._setting("training.max_grad_norm")

    @property
    def device_gib(self) -> float:
        """The memory of the device that trains; NaN where nobody knows."""
        return self._setting("machine.memory_gib")

    def _setting(self, key: str) -> float:
        """A number of the plan that is above 0; else NaN."""
        value = self.plan.get(key)
        return float(value) if isinstance(value, int | float) and value > 0 else math.nan

    @property
    def memory_gib(self) -> float:
        """The most memory held at once, after the last log line, too; NaN where nothing tells it."""
        # an attempt that had nothing left to do has held less than those before it
        told = (
            self.log.memory_gib if self.log else math.nan,
            self.finished.peak_memory_gib if self.finished else math.nan,
        )
        return max((gib for gib in told if gib > 0), default=math.nan)

    @property
    def history(self) -> tuple[Point, ...]:
        """The log lines that are kept of the whole run: every `stride`-th."""
        return self.curve.items

    @property
    def stride(self) -> int:
        """How many log lines each one in `history` stands for."""
        return self.curve.stride

    @property
    def logged(self) -> int:
        """How many log lines there were."""
        return self.curve.seen

    @property
    def smoothed_loss(self) -> float | None:
        """Where the loss stands: None before there is one, NaN when it is none any more."""
        if self.log is not None and not math.isfinite(self.log.loss):
            return math.nan
        known = [point for point in self.recent or self.history[-RECENT:] if math.isfinite(point.loss)]
        return level(known) if known else None


def fold(state: RunState, event: Event, time: float) -> RunState:
    """The state after one more event; kinds that it does not know change nothing but the time.

    Args:
        state: The state before.
        event: What happened.
        time: When, in seconds of any clock that the caller keeps to.
    """
    state = replace(state, updated=time, started=state.started or time)
    match event:
        case RunStarted():
            return _started(state, event, time)
        case Architecture():
            return replace(state, parameters=event.parameters, trainable_parameters=event.trainable_parameters)
        case Log() | Timing() | Machine():
            return _measured(state, event, time)
        case Evaluated():
            kept = thinned((*state.evaluations, event))
            best = event if event.best or state.best is None else state.best
            return replace(_at(state, event.step, event.epoch), evaluations=kept, best=best)
        case Sampled():
            return replace(_at(state, event.step), samples=(*state.samples, event)[-_KEPT:])
        case Notice() | Checked() | MemoryForecast() | Rehearsed() | TimeForecast():
            return _told(state, event, time)
        case CheckpointSaved():
            return replace(_at(state, event.step), checkpoint=event)
        case Resumed():
            return replace(_back_to(state, event.step), resumed=event)
        case RunFinished():
            return replace(_at(state, event.step, event.epoch), status=event.status, finished=event)
        case _:
            return state


def _told(
    state: RunState, event: Notice | Checked | MemoryForecast | Rehearsed | TimeForecast, time: float
) -> RunState:
    if isinstance(event, TimeForecast):
        state = replace(state, forecast=event, forecast_at=time)
    notice = _noticed(event)
    return replace(state, notices=_said(state, notice)) if notice else state


def _noticed(event: Notice | Checked | MemoryForecast | Rehearsed | TimeForecast) -> Notice | None:
    """What is shown as a sentence among the others; None for what went well."""
    match event:
        case Checked():
            return event.notice()
        case MemoryForecast():
            return Notice("info" if event.gib <= event.room_gib else "warning", memory_line(event))
        case Rehearsed():
            return Notice("info", rehearsed_line(event))
        case TimeForecast():
            return Notice("info", time_line(event), step=event.step or None)
        case _:
            return event


def _said(state: RunState, notice: Notice) -> tuple[Notice, ...]:
    """With one more notice. What is said again of no step, as each attempt does before its first, stands once."""
    kept = state.notices
    if notice.step is None:
        kept = tuple(old for old in kept if (old.text, old.change) != (notice.text, notice.change))
        notice = replace(notice, step=state.first_step or None)
    return (*kept, notice)[-_KEPT:]


def _started(state: RunState, event: RunStarted, time: float) -> RunState:
    """A new attempt: from nothing, or after what an earlier one had done by its first step."""
    earlier = _back_to(state, event.first_step) if event.first_step else RunState(notices=state.notices)
    return replace(
        earlier,
        status="training",
        run=event.run,
        plan=event.plan,
        ours=event.program == "luthier",
        total_steps=event.total_steps,
        epochs=event.epochs,
        step=event.first_step,
        first_step=event.first_step,
        started=time,
        updated=time,
        logged_at=0.0,
        forecast=None,
        forecast_at=0.0,
        finished=None,
    )


def _back_to(state: RunState, step: int) -> RunState:
    """Forget what came after `step`."""
    curve, evaluations = state.curve.until(step), until(state.evaluations, step)
    best = state.best if state.best and state.best.step <= step else None
    return replace(
        state,
        step=step,
        epoch=state.epoch * step / state.step if state.step else state.epoch,
        curve=curve,
        recent=until(state.recent, step),
        lowest=state.lowest if state.lowest and state.lowest.step <= step else _lowest(curve.items),
        log=state.log if state.log and state.log.step <= step else None,
        timings=until(state.timings, step),
        evaluations=evaluations,
        best=best or next((event for event in reversed(evaluations) if event.best), None),
        samples=until(state.samples, step),
        checkpoint=state.checkpoint if state.checkpoint and state.checkpoint.step <= step else None,
    )


def _lowest(points: tuple[Point, ...]) -> Point | None:
    return min((point for point in points if math.isfinite(point.loss)), key=lambda point: point.loss, default=None)


def _logged(state: RunState, event: Log, time: float) -> RunState:
    point = Point(
        event.step,
        event.loss,
        event.learning_rate,
        event.grad_norm,
        event.tokens_per_second,
        _step_seconds(state, event, time),
        event.memory_gib,
        reward_margin=_known(event.reward_margin),
        reward_accuracy=_known(event.reward_accuracy),
    )
    first = event.loss if state.first_loss is None and math.isfinite(event.loss) else state.first_loss
    return replace(
        _at(state, event.step, event.epoch),
        logged_at=time,
        curve=state.curve.add(point),
        recent=(*state.recent, point)[-RECENT:],
        first_loss=first,
        lowest=_lowest((state.lowest, point) if state.lowest else (point,)),
        log=event,
    )


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _step_seconds(state: RunState, event: Log, time: float) -> float:
    """As the log says, or from the times of two log lines of one attempt."""
    if math.isfinite(event.step_seconds) or state.log is None or not state.logged_at:
        return event.step_seconds
    steps, seconds = event.step - state.log.step, time - state.logged_at
    return seconds / steps if steps > 0 and seconds > 0 else math.nan


def _measured(state: RunState, event: Log | Timing | Machine, time: float) -> RunState:
    """What a step's instruments say. What the box does belongs to the log line before it."""
    match event:
        case Log():
            return _logged(state, event, time)
        case Timing():
            return replace(state, timings=(*state.timings, event)[-_KEPT_TIMINGS:])
        case Machine():
            curve = replace(state.curve, items=_with_utilization(state.history, event))
            return replace(state, machine=event, curve=curve, recent=_with_utilization(state.recent, event))


def _with_utilization(points: tuple[Point, ...], event: Machine) -> tuple[Point, ...]:
    if not points or points[-1].step != event.step:
        return points
    return (*points[:-1], points[-1]._replace(gpu_utilization=event.gpu_utilization))


def _at(state: RunState, step: int, epoch: float | None = None) -> RunState:
    """Where the run is; a log read without its first events is training all the same."""
    status = "training" if state.status == "starting" else state.status
    return replace(state, status=status, step=step, epoch=state.epoch if epoch is None else epoch)
