"""The dashboard as plain text, for pipes and files: where a run stands, its numbers, and what the doctor found.

Not covered: curves and samples; those are on the screen.
"""

from __future__ import annotations

from rich.text import Text

from luthier.monitor.dashboard import panes
from luthier.monitor.dashboard.metrics import LEARNING, MACHINE, Metric, fitting, whole_parts
from luthier.monitor.dashboard.scene import Scene, WatchedRun
from luthier.monitor.view import summary

_LABEL_WIDTH = 14
_MEANING_AT = 50


def report(scene: Scene, width: int) -> Text:
    """All runs, one after the other, no line longer than `width` cells."""
    return Text("\n\n", no_wrap=True).join([_run(Scene((run,)), width) for run in scene.runs])


def _run(scene: Scene, width: int) -> Text:
    run = scene.run
    lines = [panes.header(scene, width)]
    if run.state.finished is not None:
        lines += summary(run.state, width)
    elif run.state.updated:
        lines.append(panes.progress(scene, width))
    if run.state.logged:
        lines += [Text(), *(_line(metric, run, width) for metric in (*LEARNING, *MACHINE) if metric.shown(run))]
    return Text("\n", no_wrap=True).join([*lines, Text(), panes.findings(scene, width)])


def _line(metric: Metric, run: WatchedRun, width: int) -> Text:
    value = metric.value(run)
    forms = value if isinstance(value, tuple) else (value,)
    column = (_MEANING_AT - 2 if width > _MEANING_AT else width) - _LABEL_WIDTH - 2
    shown = next((form for form in forms if form.cell_len <= column), fitting(forms[0], width - _LABEL_WIDTH - 2))
    text = Text.assemble((f"  {metric.label:<{_LABEL_WIDTH}}", "dim"), shown, no_wrap=True)
    if shown.cell_len <= column and width > _MEANING_AT:
        text.append(" " * (_MEANING_AT - text.cell_len)).append(
            whole_parts(metric.meaning(run), width - _MEANING_AT), "not bold dim italic"
        )
    text.rstrip()
    text.truncate(width, overflow="ellipsis")
    return text
