"""The state of a run as a pure fold over its events: the same events give the same state, live or from a file.

    state = RunState()
    for event, about in read("checkpoints/events.jsonl"):
        state = fold(state, event, about["time"])

The smoothed loss is an exponential mean with the weight of the newest value a = 0.1, s <- s + a (loss - s). Its
memory is about 1/a = 10 log lines; the first ten count alike (a = 1/n), so that the first loss does not linger.

Not covered: what the numbers look like (`luthier.monitor.view`), and whether they are healthy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from luthier.events.types import (
    Architecture,
    CheckpointSaved,
    Evaluated,
    Event,
    Log,
    Notice,
    Resumed,
    RunFinished,
    RunStarted,
    Sampled,
)

Status = Literal["starting", "training", "done", "stopped", "failed"]

LONGEST_HISTORY = 2000
SMOOTHING = 0.1
_KEPT = 50


@dataclass(frozen=True)
class RunState:
    """What there is to know of a run at one moment.

    Attributes:
        started, updated: Clock of the caller, in seconds, at the first and the latest event of this attempt.
        history: (step, loss, learning rate) of the log lines; thinned out to every `stride`-th past `LONGEST_HISTORY`.
        logged: How many log lines there were.
        first_loss, smoothed_loss: None until a finite loss was seen.
        log: The latest log line.
        evaluations, samples, notices: The latest ones, oldest first.
    """

    status: Status = "starting"
    run: str = ""
    plan: dict[str, Any] | None = None
    total_steps: int = 0
    epochs: float = 0.0
    step: int = 0
    epoch: float = 0.0
    started: float = 0.0
    updated: float = 0.0
    parameters: int = 0
    trainable_parameters: int = 0
    history: tuple[tuple[int, float, float], ...] = ()
    stride: int = 1
    logged: int = 0
    first_loss: float | None = None
    smoothed_loss: float | None = None
    log: Log | None = None
    evaluations: tuple[Evaluated, ...] = ()
    best: Evaluated | None = None
    samples: tuple[Sampled, ...] = ()
    notices: tuple[Notice, ...] = ()
    checkpoint: CheckpointSaved | None = None
    resumed: Resumed | None = None
    finished: RunFinished | None = None


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
        case Log():
            return _logged(state, event)
        case Evaluated():
            kept = (*state.evaluations, event)[-_KEPT:]
            best = event if event.best or state.best is None else state.best
            return replace(_at(state, event.step, event.epoch), evaluations=kept, best=best)
        case Sampled():
            return replace(_at(state, event.step), samples=(*state.samples, event)[-_KEPT:])
        case Notice():
            return replace(state, notices=(*state.notices, event)[-_KEPT:])
        case CheckpointSaved():
            return replace(_at(state, event.step), checkpoint=event)
        case Resumed():
            return replace(_back_to(state, event.step), resumed=event)
        case RunFinished():
            return replace(_at(state, event.step, event.epoch), status=event.status, finished=event)
        case _:
            return state


def _started(state: RunState, event: RunStarted, time: float) -> RunState:
    """A new attempt: from nothing, or after what an earlier one had done by its first step."""
    earlier = _back_to(state, event.first_step) if event.first_step else RunState(notices=state.notices)
    return replace(
        earlier,
        status="training",
        run=event.run,
        plan=event.plan,
        total_steps=event.total_steps,
        epochs=event.epochs,
        step=event.first_step,
        started=time,
        updated=time,
        finished=None,
    )


def _back_to(state: RunState, step: int) -> RunState:
    """Forget what came after `step`."""
    history = tuple(point for point in state.history if point[0] <= step)
    evaluations = tuple(event for event in state.evaluations if event.step <= step)
    best = state.best if state.best and state.best.step <= step else None
    return replace(
        state,
        step=step,
        history=history,
        smoothed_loss=_smooth(history),
        log=state.log if state.log and state.log.step <= step else None,
        evaluations=evaluations,
        best=best or next((event for event in reversed(evaluations) if event.best), None),
        samples=tuple(event for event in state.samples if event.step <= step),
        checkpoint=state.checkpoint if state.checkpoint and state.checkpoint.step <= step else None,
    )


def _smooth(history: tuple[tuple[int, float, float], ...]) -> float | None:
    smoothed = None
    for count, (_, loss, _) in enumerate(history):
        smoothed = _smoothed(smoothed, loss, count)
    return smoothed


def _smoothed(smoothed: float | None, loss: float, count: int) -> float | None:
    """The mean after one more loss; `count` came before it."""
    if not math.isfinite(loss):
        return smoothed
    return loss if smoothed is None else smoothed + max(SMOOTHING, 1 / (count + 1)) * (loss - smoothed)


def _logged(state: RunState, event: Log) -> RunState:
    history, stride = state.history, state.stride
    if state.logged % stride == 0:
        history = (*history, (event.step, event.loss, event.learning_rate))
        if len(history) > LONGEST_HISTORY:
            history, stride = history[::2], stride * 2
    first = event.loss if state.first_loss is None and math.isfinite(event.loss) else state.first_loss
    return replace(
        _at(state, event.step, event.epoch),
        history=history,
        stride=stride,
        logged=state.logged + 1,
        first_loss=first,
        smoothed_loss=_smoothed(state.smoothed_loss, event.loss, state.logged),
        log=event,
    )


def _at(state: RunState, step: int, epoch: float | None = None) -> RunState:
    """Where the run is; a log read without its first events is training all the same."""
    status = "training" if state.status == "starting" else state.status
    return replace(state, status=status, step=step, epoch=state.epoch if epoch is None else epoch)
