"""The runs of a folder as one table: how each ended, its losses, what was measured, and where their configs differ.

Not covered: curves and statistics (`several`); logs of other programs; runs more than two folders down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthier.config.keys import SECTIONS
from luthier.config.outputs import EVENTS
from luthier.doctor.silence import patience
from luthier.events.durations import moment
from luthier.events.printable import one_line, short_name
from luthier.monitor.drawing import decimal
from luthier.report.run import Run, read_run
from luthier.report.several import NOT_TOLD, differing

_MOST_KEYS = 8
_NAME = 24


@dataclass(frozen=True)
class Entry:
    """A run in the table; a number that its log does not tell is None.

    Attributes:
        run: Its folder, as seen from where the command runs.
        status: `done`, `stopped`, `failed`, `training`; `silent` where nothing was said for long and there is no end.
        updated: When it said something last, in epoch seconds.
        base: The model that it started from.
        measured: What was measured of its answers, in words; empty: nothing.
        differs: Dotted key -> value, of those that are not the same in all of the runs.
    """

    run: str
    status: str
    step: int
    total_steps: int
    last_eval_loss: float | None
    best_eval_loss: float | None
    best_step: int | None
    updated: float
    base: str
    measured: str
    differs: Mapping[str, str] = field(default_factory=dict)


def entries(folder: Path, now: float) -> list[Entry]:
    """The runs of a folder, the latest first.

    Args:
        folder: It may be one itself; runs are looked for down to two folders below.
        now: In epoch seconds: a run that says nothing is silent at some time.
    """
    runs = [run for run in map(read_run, _folders(folder)) if not run.empty]
    runs.sort(key=lambda run: run.state.updated, reverse=True)
    keys = {key: values for key, values in differing(runs).items() if key.partition(".")[0] in SECTIONS}
    return [
        _entry(run, {key: values[n] for key, values in keys.items() if values[n] != NOT_TOLD}, now)
        for n, run in enumerate(runs)
    ]


def _folders(folder: Path) -> list[Path]:
    found = []
    for depth in ("", "*/", "*/*/"):
        try:
            found += [path.parent for path in folder.glob(depth + EVENTS)]
        except OSError:  # a folder that went away or may not be entered
            continue
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _entry(run: Run, differs: Mapping[str, str], now: float) -> Entry:
    state = run.state
    last = state.evaluations[-1] if state.evaluations else None
    silent = state.status in ("starting", "training") and now - state.updated > patience(run.history)
    return Entry(
        run=str(run.path),
        status="silent" if silent else state.status,
        step=state.step,
        total_steps=state.total_steps,
        last_eval_loss=_known(last.eval_loss) if last else None,
        best_eval_loss=_known(state.best.eval_loss) if state.best else None,
        best_step=state.best.step if state.best else None,
        updated=state.updated,
        base=str(run.get("model.model_name_or_path") or ""),
        measured=_measured(run),
        differs=differs,
    )


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _measured(run: Run) -> str:
    """The first split of each comparison, and each score of a model alone."""
    told = [
        f"{one.tasks} {one.rows[0].base.share:.0%} → {one.rows[0].tuned.share:.0%}"
        for one in run.results.compared
        if one.rows
    ]
    told += [f"{one.tasks} {one.shares[0][1].share:.0%}" for one in run.results.scored if one.shares]
    return "; ".join(map(one_line, dict.fromkeys(told)))


def as_json(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [asdict(entry) for entry in found]


def show(console: Console, found: Sequence[Entry]) -> None:
    """The table, then a line of differing keys for each run; of a base that is the same for all only a last line."""
    rows = [_cells(entry) for entry in found]
    bases = {row["base"] for row in rows}
    left_out = ["base"] * (len(rows) > 1 and len(bases) == 1) + ["solved"] * (not any(one.measured for one in found))
    heads = [head for head in rows[0] if head not in left_out]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        right, broken = head in ("step", "eval loss", "best (step)"), head in ("run", "solved")
        table.add_column(head, justify="right" if right else "left", overflow="fold", no_wrap=not broken)
    for row in rows:
        table.add_row(*(Text(row[head]) for head in heads))
    _print(console, table)
    if "base" in left_out:
        console.print(Text(f"\nbase of all runs: {bases.pop()}"))
    if any(entry.differs for entry in found):
        console.print("\nwhat differs in their configs", style="bold")
        width = max(cell_len(one_line(entry.run)) for entry in found)
        differences = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        differences.add_column(style="bold", overflow="fold", min_width=min(width, _NAME))
        values = {key: len({str(entry.differs.get(key)) for entry in found}) for one in found for key in one.differs}
        for entry in found:
            differences.add_row(Text(one_line(entry.run)), Text(_differing(entry, values)))
        _print(console, differences)


def _print(console: Console, table: Table) -> None:
    """A table; without the blanks at the ends of its lines where it is not for a terminal."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    console.out("\n".join(line.rstrip() for line in capture.get().splitlines()), highlight=False)


def _cells(entry: Entry) -> dict[str, str]:
    best = f"{decimal(entry.best_eval_loss)} ({entry.best_step:,})" if entry.best_eval_loss is not None else "–"
    return {
        "run": one_line(entry.run),
        "status": entry.status,
        "step": f"{entry.step:,} of {entry.total_steps:,}" if entry.total_steps else f"{entry.step:,}",
        "eval loss": decimal(entry.last_eval_loss) if entry.last_eval_loss is not None else "–",
        "best (step)": best,
        "last written": moment(entry.updated),
        "base": short_name(entry.base) or "–",
        "solved": entry.measured or "–",
    }


def _differing(entry: Entry, values: Mapping[str, int]) -> str:
    """The keys first that have the most values: what was tried, not what one odd run has otherwise."""
    keys = sorted(entry.differs, key=lambda key: -values[key])
    words = [f"{key.partition('.')[2]}={one_line(entry.differs[key])}" for key in keys]
    more = f", and {len(words) - _MOST_KEYS} more (--json)" if len(words) > _MOST_KEYS else ""
    return ", ".join(words[:_MOST_KEYS]) + more or "its log does not tell"
