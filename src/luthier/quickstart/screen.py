"""The quickstart on a screen: headings, a bar or the panel, answers before and after, a table."""

from __future__ import annotations

import textwrap
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from luthier.config.render import plan_in_words
from luthier.evaluate.answers import Say
from luthier.evaluate.score import Outcome, Rate, Scores
from luthier.evaluate.screen import telling
from luthier.evaluate.tasks.task import Task
from luthier.events.printable import one_line, printable
from luthier.events.sinks import Sinks
from luthier.events.types import Event
from luthier.monitor.panel import training_screen
from luthier.quickstart.story import CHAPTERS, Chapter, Examined, Result
from luthier.training.signals import Stop

TITLES = {
    "plan": "What will happen",
    "before": "Before: what can the base model do?",
    "training": "Training",
    "after": "After: the same tasks again",
}
SPLITS = {
    "phrasing": "tasks it was trained on, in words it never saw",
    "parameter": "names and numbers it never saw",
    "composition": "two steps it never saw together",
}
NEXT = """\
luthier chat {run} --compare          ask it yourself; base and tuned side by side
luthier compare {run}                 the examination again, with gains, losses and statistics
tensorboard --logdir {run}/logs       loss, learning rate, gradients per layer
luthier train configs/quickstart.yaml learning_rate=2e-4 output_dir=checkpoints/slow     change one thing, and see
luthier learn                         why: seven lessons, in which small runs answer a question
the guide: "A first hour"             docs/index.md: what to look at next"""
_LONGEST_ANSWER = 8  # lines
_PASSED, _FAILED = ("✔", "green"), ("✘", "red")


class Screen:
    """Shows the story as it is told. A context manager that gives the terminal back.

    Args:
        console: Where to draw.
        plain: One log line a step instead of the panel.
        stop: Whether a stop was asked for; `shown` once the panel says so.
    """

    def __init__(self, console: Console, plain: bool, stop: Stop) -> None:
        self._console, self._plain, self._stop = console, plain, stop
        self._panel = Sinks()
        self._bar = ExitStack()
        self._say: Say = lambda what, done, total: None

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._panel.close()
        self._bar.close()

    def show(self, told: Chapter | Examined | Event | Result) -> None:
        """Draw the next piece of the story; the result is drawn by `table`."""
        if isinstance(told, Event):
            self._panel.write(told)
        elif isinstance(told, Examined):
            self._bar.close()
            self._console.print(examined(told))
        elif isinstance(told, Chapter):
            self._panel.close()
            self._console.print(heading(told, self._console.width))
            if told.name == "training":
                self._panel.add("the terminal", training_screen(self._console, self._plain, self._stop))
            elif told.name in ("before", "after"):
                self._say = self._bar.enter_context(telling(self._console))

    def progress(self, what: str, done: int, total: int) -> None:
        """How far an examination is.

        Raises:
            KeyboardInterrupt: A stop was asked for.
        """
        if self._stop():
            raise KeyboardInterrupt
        self._say(what, done, total)


def heading(chapter: Chapter, width: int) -> RenderableType:
    """A rule with the number and title of the chapter, and its text, for a screen of so many columns."""
    title = f"{CHAPTERS.index(chapter.name) + 1} of {len(CHAPTERS)}  {TITLES[chapter.name]}"
    lines = plan_in_words(chapter.plan, width) if chapter.plan else [chapter.text]
    return Group(Text(), Rule(title, align="left", characters="-"), *map(Text, lines))


def examined(done: Examined) -> RenderableType:
    """The score, and one answer of each split with its verdict."""
    rate = done.scores.pass_at_1
    solved = round(rate.share * rate.tasks)
    line = Text.assemble(
        (f"{solved} of {rate.tasks} tasks solved", "bold"), f" ({rate.share:.0%}); ", _causes(done.scores)
    )
    answers = [answer(task, outcome) for task, outcome in _one_of_each(done)]
    return Group(*answers, Text(), line)


def _causes(scores: Scores) -> str:
    others = [f"{cause} {count}" for cause, count in scores.causes.items() if cause != "passed"]
    return "the others: " + ", ".join(others) if others else "all of them"


def _one_of_each(done: Examined) -> list[tuple[Task, Outcome]]:
    """The first task of each split: the same ones before and after."""
    pairs: dict[str, tuple[Task, Outcome]] = {}
    for task, outcome in zip(done.tasks, done.scores.outcomes, strict=True):
        pairs.setdefault(task.split, (task, outcome))
    return list(pairs.values())


def answer(task: Task, outcome: Outcome) -> RenderableType:
    """A task, the beginning of what the model wrote, and what the tests said."""
    mark, color = _PASSED if outcome.verdict.passed else _FAILED
    verdict = outcome.verdict.cause + (f": {one_line(outcome.verdict.detail)}" if not outcome.verdict.passed else "")
    lines = [line for line in printable(outcome.answer).split("\n") if line.strip()] or ["(nothing)"]
    more = ["…"] if len(lines) > _LONGEST_ANSWER else []
    code = Syntax("\n".join(lines[:_LONGEST_ANSWER] + more), "python", theme="ansi_dark", background_color="default")
    question = Text.assemble(("> ", "dim"), (one_line(task.instruction), "italic"))
    return Group(Text(), question, Padding(code, (0, 0, 0, 2)), Text.assemble((f"{mark} ", color), (verdict, "dim")))


def table(result: Result) -> RenderableType:
    """Base and tuned by split, each with its 95 % interval; time and memory."""
    assert result.base and result.tuned and result.finished, "the story has been told"
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, justify in (("held-out tasks", "left"), ("", "left"), ("base", "right"), ("tuned", "right")):
        grid.add_column(name, justify=justify)  # type: ignore[arg-type]
    grid.add_column("95 % interval", justify="right", style="dim")
    for split in result.tuned.splits:
        before, after = (scores.pass_at(split=split) for scores in (result.base, result.tuned))
        grid.add_row(split, Text(SPLITS.get(split, ""), "dim"), *_cells(before, after))
    grid.add_row("all", f"{result.tuned.pass_at_1.tasks} tasks", *_cells(result.base.pass_at_1, result.tuned.pass_at_1))
    minutes, memory = sum(result.seconds.values()) / 60, result.peak_memory_gib
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    facts = Text(f"{minutes:.1f} minutes ({parts}), at most {memory:.2f} GiB; sandbox: {result.tuned.held}", "dim")
    return Group(Text(), grid, Text(), facts)


def _cells(before: Rate, after: Rate) -> tuple[str, str, str]:
    return f"{before.share:.0%}", f"[bold]{after.share:.0%}[/]", f"{after.low:.0%} to {after.high:.0%}"


def what_next(run: str, width: int) -> RenderableType:
    """Commands to go on with, each whole or broken as a shell reads it, and below each what it is for."""
    lines = [Text(), Text("Try next")]
    for command, _, meaning in (line.partition("  ") for line in NEXT.format(run=run).split("\n")):
        parts = textwrap.wrap(command, width - 6, break_long_words=False, break_on_hyphens=False)
        lines += [Text("  " + " \\\n      ".join(parts), "bold"), Text(f"      {meaning.strip()}", "dim")]
    return Group(*lines)
