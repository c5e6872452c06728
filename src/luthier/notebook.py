"""`luthier.run`: a training run with a screen, from Python.

In a notebook the cell's output shows the run while it trains, and keeps it; the notebook's stop button saves and ends
it. In a terminal it is what `luthier train` shows.

Not covered: events as a stream (`luthier.train`), several processes (`luthier train --nproc-per-node`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from luthier import api
from luthier.events.sinks import Sink, Sinks
from luthier.events.types import RunFinished
from luthier.monitor.panel import training_screen
from luthier.report.inline import Inline
from luthier.training.signals import Stop, stop_on_signals


def run(config: api.ConfigLike, overrides: Sequence[str] = (), **options: Any) -> RunFinished:
    """Train as the config says, and show it.

    A first Ctrl-C, or the notebook's stop button, finishes the step, saves and ends the run; `resume="auto"` goes on.

    Args:
        config: Path of a YAML, or a dict with the same keys.
        overrides: `key=value` strings, dotted or bare where unique.
        options: Those of `luthier.train`, but `stop`.

    Returns:
        How it ended: `status` is done or stopped, `final_model` the adapter's folder.

    Raises:
        LuthierError: As `luthier.train`.
    """
    ended: RunFinished | None = None
    with stop_on_signals() as stop, Sinks() as screen:
        screen.add("the screen", _screen(stop))
        for event in api.train(config, overrides, stop=stop, **options):
            screen.write(event)
            if isinstance(event, RunFinished):
                ended = event
    assert ended is not None, "the last event of every run that raises nothing"
    return ended


def _screen(stop: Stop) -> Sink:
    """Of the notebook that asks, or else of the terminal."""
    if _in_a_notebook():
        from IPython.display import display

        shown: Callable[..., Any] = display
        return Inline(lambda bundle: shown(bundle, raw=True, display_id=True))
    return training_screen(Console(), False, stop)


def _in_a_notebook() -> bool:
    """Whether a kernel shows what is displayed; IPython in a terminal has none."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None
