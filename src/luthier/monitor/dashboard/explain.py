"""What `?` shows: the long answer to a number or chart, or what the keys do."""

from __future__ import annotations

import math

from rich.text import Text

from luthier.events.line import significant
from luthier.events.types import REWARDS
from luthier.monitor.dashboard.metrics import METRICS
from luthier.monitor.dashboard.palette import ACCENT
from luthier.monitor.dashboard.scene import WatchedRun

KEYS = (
    ("1 to 5", "Overview, Charts, Findings, Samples, Run; ← and → too"),
    ("↑ ↓ Tab", "go to the next number or chart, or scroll"),
    ("?", "what the number or chart that you are at means; at none, this"),
    ("Enter", "a chart fills the pane, and goes back"),
    ("+ -", "zoom the charts: fewer of the latest steps, or more"),
    ("s S", "smooth the curves more, or less"),
    ("l", "logarithmic or linear charts"),
    ("space", "pause: the screen stands still, or the replay"),
    ("n", "the next run, where there are several"),
    ("q", "quit; the run goes on"),
)


def answer(key: str, run: WatchedRun, *, short: bool = False) -> Text:
    """All three paragraphs of one metric under its name, or only what it is and what it says of this run."""
    metric = METRICS[key]
    said = metric.told(run)
    text = Text.assemble((metric.label, f"bold {ACCENT}"), "\n\n", said.idea, "\n\n", (said.here(run), "bold"))
    return text if short else text.append(f"\n\n{said.care}", "not bold").append("\n\nEsc closes this.", "not bold dim")


def keys() -> Text:
    """What the keys do."""
    text = Text.assemble(("Keys", f"bold {ACCENT}"), "\n\n")
    for key, words in KEYS:
        text.append(f"{key:<12}", "bold").append(f"{words}\n")
    text.append("\nEverything on the screen is read from files; nothing here touches the run.", "dim")
    return text.append("\n\nEsc closes this.", "dim")


def latest(name: str, run: WatchedRun) -> str:
    """What the log told last of a number, in words; of any number that it has."""
    state = run.state
    name = next((field for field, told in REWARDS.items() if told == name), name)
    for event in (state.log, *state.timings[-1:], *state.evaluations[-1:], state.machine, state.finished):
        value = getattr(event, name, None)
        if isinstance(value, int | float) and math.isfinite(value):
            shown = f"{value:,}" if isinstance(value, int) else f"{significant(value, 6):g}"
            return f"Here it is {shown}, at step {getattr(event, 'step', state.step):,}."
    return "The log does not tell it."


def here(name: str, run: WatchedRun) -> str:
    """What a number of the log says of a run, in words.

    Args:
        name: As the log calls it.
        run: What was read.
    """
    said = next((metric.answer for metric in METRICS.values() if metric.answer.number == name), None)
    return said.here(run) if said else latest(name, run)
