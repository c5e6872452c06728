"""`luthier.run`: a training run with a screen, from Python.

In a notebook the cell's output shows the run while it trains, and keeps it; the notebook's stop button saves and ends
it. In a terminal it is what `luthier train` shows.

Not covered: events as a stream (`luthier.train`), several processes (`luthier train --nproc-per-node`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from luthier import api
from luthier.events.sinks import Sink, Sinks
from luthier.events.types import Event, RunFinished
from luthier.monitor.panel import training_screen
from luthier.monitor.verdict import Verdict
from luthier.training.signals import Stop, stop_on_signals


def run(
    config: api.ConfigLike,
    overrides: Sequence[str] = (),
    *,
    resume: str | Path | bool | None = None,
    overwrite: bool = False,
    allow_changes: bool = False,
    allow: Sequence[str] = (),
) -> RunFinished:
    """Train as the config says, and show it.

    A first Ctrl-C, or the notebook's stop button, finishes the step, saves and ends the run; `resume="auto"` goes on.

    Args:
        config: Path of a YAML, or a dict with the same keys.
        overrides: `key=value` strings, dotted or bare where unique: `["learning_rate=1e-4", "lora.r=32"]`.
        resume: ``auto`` (or True) or a checkpoint's folder; default: `checkpointing.resume_from_checkpoint`.
        overwrite: Move an earlier run in the same folder aside.
        allow_changes: Resume although data or settings changed since the checkpoint.
        allow: Checks of the gate whose failure is taken on purpose, by name (``rows-cut``); written into the record.

    Returns:
        How it ended: `status` is done or stopped, `final_model` the adapter's folder.

    Raises:
        LuthierError: As `luthier.train`.
    """
    options: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "allow_changes": allow_changes, "allow": allow}
    with stop_on_signals() as stop:
        ended = show(api.train(config, overrides, stop=stop, **options), _screen(stop))
    assert ended is not None, "the last event of every run that raises nothing"
    return ended


def show(events: Iterable[Event], screen: Sink | None) -> RunFinished | None:
    """Read a run to its end, and show it (None: on no screen); returns how it ended."""
    ended: RunFinished | None = None
    with Sinks() as sinks:
        if screen is not None:
            sinks.add("the doctor's last word", Verdict())  # the last to be closed
            sinks.add("the screen", screen)
        for event in events:
            sinks.write(event)
            if isinstance(event, RunFinished):
                ended = event
    return ended


def _screen(stop: Stop) -> Sink:
    """Of the notebook that asks, or else of the terminal."""
    if _in_a_notebook():
        from IPython.display import display

        from luthier.report.inline import Inline

        shown: Callable[..., Any] = display
        return Inline(lambda bundle: shown(bundle, raw=True, display_id=True))
    return training_screen(Console(), False, stop)


def _in_a_notebook() -> bool:
    """Whether a kernel shows what is displayed; IPython in a terminal has none."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None
