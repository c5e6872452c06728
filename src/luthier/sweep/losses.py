"""The losses of a trial, from what its run wrote."""

from __future__ import annotations

import math
from pathlib import Path

from luthier.events.read import read
from luthier.events.types import Evaluated


def losses_of(folder: Path) -> tuple[float, ...]:
    """The loss on the held-out rows at each evaluation of a run, as it stands; inf for what is no number."""
    path = folder / "events.jsonl"
    if not path.is_file():
        return ()
    found = {event.step: event.eval_loss for event, _ in read(path) if isinstance(event, Evaluated)}
    return tuple(found[step] if math.isfinite(found[step]) else math.inf for step in sorted(found))
