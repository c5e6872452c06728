"""Several runs on one page: their losses over each other, what came out of each, and where their plans differ.

Not covered: one run in full (`page`), and whether a difference is more than chance: a run is one draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.config.tree import shown as told_value
from luthier.events.durations import duration
from luthier.events.page import page as document
from luthier.events.page import table, text
from luthier.monitor.drawing import decimal
from luthier.monitor.state import RunState
from luthier.monitor.statistics import elapsed
from luthier.report.curves import COLOURS, Line, held_out, svg, trend_line
from luthier.report.page import STYLE
from luthier.report.record import told
from luthier.report.run import Run
from luthier.report.words import done

_ROOM = 75
"""Letters of a legend beside the title."""
NOT_TOLD = "not told"
_OF_A_PLACE = ("training.output_dir", "logging.logging_dir", "data.cache_dir", "machine.")


def several(runs: Sequence[Run]) -> str:
    """The whole page; the runs are in the order in which they were given."""
    names = _names(runs)
    drawn = overlaid(names, [run.state for run in runs])
    mixed = len({run.state.on_pairs for run in runs}) > 1
    body = [
        f"<h1>{len(runs)} runs</h1>",
        "<h2>The curves</h2>",
        drawn or '<p class="unknown">No log line with a number was written.</p>',
        f'<h2>What came out</h2>\n<div class="wide">{_outcomes(names, runs)}</div>',
        f'<h2>What differs in their plans</h2>\n<div class="wide words">{_differences(names, runs)}</div>',
        "<h2>What was done</h2>",
        *(f"<p><strong>{text(name)}</strong>: {text(done(run))}</p>" for name, run in zip(names, runs, strict=True)),
        *["<p>Losses of runs on pairs (dpo) and of others are no numbers of one kind: compare answers.</p>"] * mixed,
        "<p>A run is one draw: whether a difference is more than chance takes several seeds.</p>",
    ]
    return document(f"{len(runs)} runs: report", STYLE, body)


def overlaid(names: Sequence[str], states: Sequence[RunState]) -> str:
    """The losses of several runs over each other; empty where no line has a number."""
    shown = names if sum(map(len, names)) + 7 * len(names) < _ROOM else [""] * len(names)  # else the table is the key
    named = list(enumerate(zip(shown, states, strict=True)))
    trends = [Line(name, trend_line(state), _kind(n)) for n, (name, state) in named]
    losses = [Line(name, held_out(state), _kind(n), marked=True) for n, (name, state) in named if state.evaluations]
    drawn = (svg("training loss, its trend", trends, 260, wide=True), svg("held-out loss", losses, 220, wide=True))
    return "\n".join(figure for figure in drawn if figure)


def _names(runs: Sequence[Run]) -> list[str]:
    """Folder names; with their parent's where two are alike."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else str(run.path) for name, run in zip(names, runs, strict=True)]


def _kind(number: int) -> str:
    return f"c{number % COLOURS}" + f" d{min(2, number // COLOURS)}" * (number >= COLOURS)


def stroke(number: int) -> str:
    """A piece of the line of a run."""
    return f'<svg class="key" viewBox="0 0 18 8"><line class="line {_kind(number)}" x2="18" y1="4" y2="4"/></svg>'


def _outcomes(names: Sequence[str], runs: Sequence[Run]) -> str:
    cells = []
    for number, (name, run) in enumerate(zip(names, runs, strict=True)):
        state = run.state
        seconds = elapsed(state, state.updated)
        best = state.best
        compared = [f"{one.tasks}: {100 * one.rows[0].tuned.share:.1f} %" for one in run.results.compared if one.rows]
        cells.append(
            (
                f"{stroke(number)} {text(name)}",
                state.status,
                f"{state.step:,}",
                decimal(state.smoothed_loss) if state.smoothed_loss is not None else "",
                f"{decimal(best.eval_loss)} (step {best.step:,})" if best else "",
                duration(seconds) if math.isfinite(seconds) else "",
                text("; ".join(compared)) or "not measured",
            )
        )
    heads = ("run", "status", "step", "training loss, smoothed", "lowest held-out loss", "time", "pass@1")
    return table(heads, cells)


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Key of the plan -> its value in each run, of those that differ; places and the machine aside."""
    plans = [run.state.plan for run in runs]
    keys = [key for key in dict.fromkeys(key for plan in plans for key in plan) if not key.startswith(_OF_A_PLACE)]
    told_values = {
        key: [told_value(told(plan[key]), 80) if key in plan else NOT_TOLD for plan in plans] for key in keys
    }
    return {key: values for key, values in told_values.items() if len(set(values)) > 1}


def _differences(names: Sequence[str], runs: Sequence[Run]) -> str:
    cells = [(text(key), *map(text, values)) for key, values in differing(runs).items()]
    if not cells:
        return '<p class="unknown">Nothing, as far as their records tell.</p>'
    return table(("key", *map(text, names)), cells)
