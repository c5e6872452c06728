"""A lesson on a screen: the question, the runs as they go, one picture of their losses, the answer, the exercise."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from luthier.doctor.history import History, fold
from luthier.errors.terminal import wrapped
from luthier.events.types import Event
from luthier.learn.lesson import EXERCISE, Begun, Exercise, Lesson, Outcome, Results
from luthier.learn.lessons import LESSONS
from luthier.monitor.dashboard.canvas import Curve, Picture, draw
from luthier.monitor.drawing import ACCENT, bar

_STYLES, _MARKS = (ACCENT, "yellow", "green", "magenta"), "①②③④"
_MOST_COLUMNS, _ROWS, _BAR = 100, 12, 16
_KEY = 15
"""Columns of a key, where it is narrow."""
_HANGING = " " * 11
_REFRESH_SECONDS = 0.2
_UNUSUAL = "Mostly it comes out as {}, and what follows was written for that; its numbers are those of your runs."


def contents() -> RenderableType:
    """All lessons, one a line."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, lesson in LESSONS.items():
        grid.add_row(Text(name, f"bold {ACCENT}"), lesson.title, Text(_what(lesson), "dim"))
    go = Text("Begin with: luthier learn learning-rate", "dim")
    return Group(Text("Small runs that answer a question, on any CPU.\n"), grid, Text(), go)


def question(lesson: Lesson, width: int) -> RenderableType:
    """What is asked, and what can be guessed."""
    width = min(width, _MOST_COLUMNS)
    lines = [wrapped(text, f"  {letter}  ", "     ", width) for letter, text in lesson.choices.items()]
    idea, asked = wrapped(lesson.idea, "", "", width), wrapped(lesson.question, "", "", width)
    return Group(_rule(lesson.title), Text(idea), Text(), Text(asked, "bold"), Text("\n".join(lines)), Text())


def follow(told: Iterable[Begun | Event | Outcome], console: Console) -> dict[str, Outcome]:
    """Show the runs as they go; returns what came of each that came to its end."""
    came: dict[str, Outcome] = {}
    begun, run, seen = Begun(0, ""), History(), 0.0
    with Live(console=console, transient=True, auto_refresh=False) as live:
        for one in told:
            if isinstance(one, Begun):
                begun, run = one, History()
            elif isinstance(one, Outcome):
                came[one.name] = one
                console.print(_running(begun, one.history))
            else:
                run = fold(run, one, 0.0)
            if console.is_terminal and not isinstance(one, Outcome) and time.monotonic() - seen > _REFRESH_SECONDS:
                seen = time.monotonic()
                live.update(_running(begun, run), refresh=True)
    return came


def _running(begun: Begun, run: History) -> RenderableType:
    """How far a run is."""
    full, rest = bar(run.step / run.total_steps if run.total_steps else 0.0, _BAR)
    loss = f"loss {run.recent[-1].loss:.3f}" if run.recent else ""
    mark = _mark(begun.number)
    text = Text.assemble(mark, (f"{begun.name:<10} ", "bold"), (full, mark[1]), (rest, "dim"))
    return text.append(f"  {run.step} of {run.total_steps}  {loss}" if run.total_steps else "  loading", "dim")


def results(lesson: Lesson, shown: Results, width: int) -> RenderableType:
    """One picture of all losses, and a line for each run."""
    width = min(width, _MOST_COLUMNS)
    curves = [
        Curve(outcome.losses, _STYLES[number % len(_STYLES)], end=_MARKS[number % len(_MARKS)])
        for number, outcome in enumerate(shown.values())
    ]
    logarithmic = _spread(shown) > 8
    title = Text.assemble(("training loss", "bold"), (" at each step" + (", log" if logarithmic else ""), "dim"))
    return Group(
        title, draw(Picture(tuple(curves), logarithmic), width, _ROWS), Text(), _table(lesson, shown, width), Text()
    )


def _table(lesson: Lesson, shown: Mapping[str, Outcome], width: int) -> Table:
    """A line for each run. Where it is narrow a key and its value are two words, so that none is broken."""
    narrow = width < _MOST_COLUMNS
    changes = {arm.name: arm.differs or "  ".join(arm.changes) for arm in lesson.arms}
    grid = Table(box=None, padding=(0, 1 if narrow else 2, 0, 0), header_style="dim")
    grid.add_column("run")
    grid.add_column("what differs", style="dim", overflow="fold", max_width=_KEY if narrow else None)
    for name in ("first", "last ten", "held out", "trained"):
        grid.add_column(name, justify="right", no_wrap=True)
    rules = {f.rule for outcome in shown.values() for f in outcome.found if f.severity != "info"}
    grid.add_column("the doctor says", overflow="fold", min_width=max(map(len, rules), default=0))
    for number, (name, outcome) in enumerate(shown.items()):
        grid.add_row(
            Text.assemble(_mark(number), (name, "bold")),
            changes.get(name, "").replace("=", " " if narrow else "="),
            f"{outcome.first:.3f}",
            f"{outcome.last:.3f}",
            f"{outcome.held_out:.3f}",
            f"{outcome.trained:,}",
            ", ".join(finding.rule for finding in outcome.found if finding.severity != "info") or "-",
        )
    return grid


def answer(lesson: Lesson, came: Results, guess: str, width: int) -> RenderableType:
    """What the runs say, beside what was guessed, and why; where they say something unusual, that they do."""
    width = min(width, _MOST_COLUMNS)
    right = lesson.answer(came)
    head = Text.assemble((f"{right}  {lesson.choices[right]}", "bold green"))
    if guess:
        head.append("   as you said" if guess == right else f"   you said {guess}", "dim")
    why = lesson.why(came)
    if right != lesson.usual:
        why = f"{_UNUSUAL.format(lesson.usual)} {why}"
    return Group(_rule("The answer"), head, Text(), Text(wrapped(why, "", "", width)), Text())


def whats_next(lesson: Lesson, folder: Path, width: int) -> RenderableType:
    """The exercise, and where to read on."""
    width = min(width, _MOST_COLUMNS)
    lines: list[RenderableType] = []
    if exercise := lesson.exercise:
        lines += [_rule("Your turn"), *_task(exercise, width)]
        file = folder / f"{EXERCISE}.yaml"
        lines.append(Text(f"\n  edit   {file}\n  check  luthier learn {lesson.name} --check {file}\n"))
    words = ", ".join(
        f'luthier explain "{word}"' if " " in word else f"luthier explain {word}" for word in lesson.words
    )
    lines.append(Text(wrapped(words, "Read on    ", _HANGING, width), "dim"))
    lines.append(
        Text(wrapped(f"luthier watch {folder}/{lesson.arms[-1].name}", "Look closer  ", _HANGING, width), "dim")
    )
    following = next((name for name in _after(lesson)), "")
    if following:
        lines.append(Text(f"Next       luthier learn {following}", "dim"))
    return Group(*lines)


def verdict(passed: bool, shows: str, width: int) -> RenderableType:
    """Whether an exercise is solved."""
    mark = ("✔ solved   ", "bold green") if passed else ("✘ not yet  ", "bold red")
    return Text.assemble(mark, wrapped(shows, "", _HANGING, min(width, _MOST_COLUMNS) - len(_HANGING)))


def _task(exercise: Exercise, width: int) -> Iterator[RenderableType]:
    yield Text(wrapped(exercise.task, "", "", width))
    names = ", ".join(key.partition(".")[2] for key in exercise.may_change)
    yield Text(wrapped(f"You may change {names}; nothing else.", "", "", width), "dim")


def _what(lesson: Lesson) -> str:
    return f"{len(lesson.arms)} runs" + (", an exercise" if lesson.exercise else "")


def _after(lesson: Lesson) -> list[str]:
    names = list(LESSONS)
    return names[names.index(lesson.name) + 1 :]


def _spread(shown: Mapping[str, Outcome]) -> float:
    values = [loss for outcome in shown.values() for _, loss in outcome.losses if math.isfinite(loss) and loss > 0]
    return max(values) / min(values) if values else 1.0


def _mark(number: int) -> tuple[str, str]:
    return f"{_MARKS[number % len(_MARKS)]} ", _STYLES[number % len(_STYLES)]


def _rule(title: str) -> Rule:
    return Rule(title, align="left", characters="-", style="dim")
