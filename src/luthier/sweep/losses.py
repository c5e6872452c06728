"""The losses of a trial, from what its run wrote; and whether it has them all."""

from __future__ import annotations

import math
from pathlib import Path

from luthier.config.outputs import EVENTS
from luthier.events.read import read
from luthier.events.types import Evaluated, Event, RunFinished, RunStarted


def losses_of(folder: Path) -> tuple[float, ...]:
    """The loss on the held-out rows at each evaluation of a run, as it stands; inf for what is no number."""
    found = {event.step: event.eval_loss for event in _events(folder) if isinstance(event, Evaluated)}
    return tuple(found[step] if math.isfinite(found[step]) else math.inf for step in sorted(found))


def is_over(folder: Path) -> bool:
    """Whether a run has done all its steps and evaluations, so that a stop would change nothing any more."""
    total = math.inf
    for event in _events(folder):
        match event:
            case RunStarted():
                total = event.total_steps
            case Evaluated() if event.step >= total:
                return True
            case RunFinished() if event.status == "done":
                return True
    return False


def _events(folder: Path) -> list[Event]:
    path = folder / EVENTS
    return [event for event, _ in read(path)] if path.is_file() else []
