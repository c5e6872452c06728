"""What was measured, on the terminal: tables, what changed, some answers side by side, and the verdict.

What a model wrote, and what a tasks file holds, is stripped of control characters and never read as markup.

Not covered: pictures; the JSON file has every number for them.
"""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from luthier.evaluate.answers import Say
from luthier.evaluate.compare import Change, Comparison
from luthier.evaluate.pairs import Pairs, start_from
from luthier.evaluate.runs import Evaluation
from luthier.evaluate.score import Outcome, Scores
from luthier.evaluate.tasks.task import Task
from luthier.evaluate.words import causes, outcome_of, p_value, percent, points, telling_tasks
from luthier.events.printable import one_line, printable

PLAIN_WIDTH = 120
_WIDE = 98
_SAY_EVERY_SECONDS = 10.0
_ANSWER_LINES = 14
_LISTED_LINES = 3


@contextmanager
def telling(errors: Console) -> Iterator[Say]:
    """Yields a function that says how far it is: a bar on a terminal, else a line now and then."""
    if not errors.is_terminal:
        yield _lines(errors)
        return
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        bar = progress.add_task("", total=None)
        shown = ""

        def say(what: str, done: int, total: int) -> None:
            nonlocal shown
            if what != shown:
                shown = what
                progress.reset(bar, description=_escaped(what), total=total or None)
            progress.update(bar, completed=done, total=total or None)

        yield say


def _lines(errors: Console) -> Say:
    last = ("", 0.0)

    def say(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if what != last[0] or done == total or now - last[1] > _SAY_EVERY_SECONDS:
            last = what, now
            errors.print(Text(f"{one_line(what)} {done} of {total}" if total else one_line(what)), soft_wrap=True)

    return say


def show(console: Console, comparison: Comparison, samples: int) -> None:
    """Print everything about one run on one set of tasks.

    Args:
        console: Where to.
        comparison: The run beside its base.
        samples: How many answers to show side by side.
    """
    console.print()
    head = Text.assemble((one_line(comparison.run), "bold"), "  beside its base ", one_line(comparison.base_name))
    head.append("  on ").append(one_line(comparison.tasks.name), "bold")
    console.print(head, soft_wrap=not console.is_terminal)
    console.print(_table(comparison, console))
    for label, value in _facts(comparison):
        _tell(console, label, value)
    for label, ids in (("gained", comparison.overall.gained), ("lost", comparison.overall.lost)):
        console.print(_listed(label, ids, console.width))
    for task in islice(telling_tasks(comparison), samples):
        console.print(_side_by_side(comparison, task, console))
    color = "green" if comparison.overall.better else "red" if comparison.overall.worse else "yellow"
    console.print()
    verdict = textwrap.wrap(one_line(comparison.verdict), max(20, console.width), break_on_hyphens=False)
    console.print(Text("\n".join(verdict), f"bold {color}"))


def show_summary(console: Console, comparisons: Sequence[Comparison]) -> None:
    """Print several comparisons in a line each."""
    console.print()
    table = _empty_table(console)
    table.add_column("all of them", overflow="fold")
    table.add_column("tasks", overflow="fold")
    for heading in ("base", "tuned", "change (95 % CI)", "p (Holm)"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("fine-tuning", overflow="fold")
    for one in comparisons:
        change = one.overall
        style = "green" if change.better else "red" if change.worse else ""
        cells = [one_line(one.run), one_line(one.tasks.name), percent(change.base, False), percent(change.tuned, False)]
        table.add_row(*map(Text, (*cells, points(change), p_value(change.corrected))), Text(one.conclusion, style))
    console.print(table)


def show_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Print what one model reached."""
    console.print()
    console.print(Text(one_line(evaluation.model), "bold"))
    table = _empty_table(console)
    table.add_column("pass@k in %", overflow="fold")
    for heading in ("tasks", *(f"pass@{k} (95 % CI)" for k in evaluation.ks)):
        table.add_column(heading, justify="right", overflow="fold")
    for one, scores in evaluation.scores:
        splits = scores.splits if len(scores.splits) > 1 else ()
        for name, split in ((one.name, None), *((f"  {split or '(none)'}", split) for split in splits)):
            rates = [scores.pass_at(k, split) for k in evaluation.ks]
            style = "bold" if console.is_terminal and split is None else ""
            cells = [one_line(name) if split is None else name, str(rates[0].tasks), *(percent(rate) for rate in rates)]
            table.add_row(*map(Text, cells), style=style)
    console.print(table)
    for one, scores in evaluation.scores:
        name = f"{one.name}: " if len(evaluation.scores) > 1 else ""
        python = "" if scores.valid_syntax is None else f"{scores.valid_syntax:.0%} are Python; "
        _tell(console, "answers", f"{name}{causes(scores)}; {python}{_seconds(scores)}")
    settings = evaluation.settings
    facts = [("asked", f"{settings.asked}, {settings.decoding}")]
    facts += [("general", str(evaluation.forgetting))] if evaluation.forgetting else []
    held = next((scores.held for _, scores in evaluation.scores if scores.tier), evaluation.scores[0][1].held)
    for label, text in (*facts, ("sandbox", held)):
        _tell(console, label, text)


def show_pairs(console: Console, pairs: Pairs, evaluation: Evaluation, file: str) -> None:
    """Print what the pairs come from, and how to train on them.

    Args:
        console: Where to.
        pairs: Perhaps none.
        evaluation: Whose answers they are.
        file: That holds them.
    """
    tasks = ((pairs.only_right, "had only right answers"), (pairs.only_wrong, "had only wrong ones"),
             (pairs.neither, "had none that could be used"))  # fmt: skip
    others = ", ".join(f"{count:,} {what}" for count, what in tasks if count)
    rows = f"{len(pairs.rows):,} pair{'s' * (len(pairs.rows) != 1)} of {pairs.paired:,} of {pairs.tasks:,} tasks"
    _tell(console, "pairs", f"{rows}; {others}" if others else rows)
    room = evaluation.settings.max_new_tokens
    answers = ((pairs.cut, f"that had not ended after {room:,} tokens"), (pairs.unclear, "without a clear verdict"))
    left_out = [f"{count:,} answer{'s' * (count != 1)} {what}" for count, what in answers if count]
    if left_out:
        _tell(console, "left out", ", ".join(left_out))
    if not pairs.rows:
        return
    sets = ", ".join(one.name for one, _ in evaluation.scores)
    _tell(console, "warning", f"{sets} says nothing any more about a model that is trained on these pairs")
    merge, start = start_from(evaluation.model)
    _tell(console, "next", f"{merge}; then train with these lines" if merge else "train with these lines")
    lines = [
        "model:", f"  model_name_or_path: {json.dumps(start)}",
        "data:", "  datasets:", f"    - path: {json.dumps(file)}", "      format: preference",
        "training:", "  objective: dpo", "  learning_rate: 5e-6",
    ]  # fmt: skip
    console.print(Text("\n".join(f"  {line}" for line in lines)), soft_wrap=True)


def _empty_table(console: Console) -> Table:
    ruled = console.is_terminal
    return Table(
        box=SIMPLE_HEAD if ruled else None,
        padding=(0, 1, 0, 0) if ruled else (0, 2, 0, 0),
        pad_edge=False,
        header_style="bold" if ruled else "",
    )


def _table(comparison: Comparison, console: Console) -> Table:
    ruled, wide = console.is_terminal, console.width >= _WIDE
    table = _empty_table(console)
    table.add_column("pass@1 in %", overflow="fold")
    for heading in ("tasks", "base", "tuned", "change (95 % CI)", "gained", "lost", "p"):
        table.add_column(heading, justify="right", overflow="fold")
    for change in (*comparison.splits, comparison.overall):
        table.add_row(*_row(change, wide), style="bold" if ruled and change is comparison.overall else "")
    return table


def _row(change: Change, wide: bool) -> Iterator[Text]:
    yield Text(one_line(change.split) or "(none)")
    yield Text(str(change.base.tasks))
    yield Text(percent(change.base, wide))
    yield Text(percent(change.tuned, wide))
    yield Text(points(change), "green" if change.better else "red" if change.worse else "")
    yield Text(str(len(change.gained)))
    yield Text(str(len(change.lost)))
    yield Text(p_value(change.p))


def _facts(comparison: Comparison) -> Iterator[tuple[str, str]]:
    base, tuned = comparison.base, comparison.tuned
    if base.valid_syntax is not None and tuned.valid_syntax is not None:
        yield (
            "syntax",
            f"{base.valid_syntax:.0%} of the base's answers are Python, {tuned.valid_syntax:.0%} of the tuned's",
        )
    for who, scores in (("base", base), ("tuned", tuned)):
        yield (who, f"{causes(scores)}; {_seconds(scores)}")
    yield ("weights", f"{comparison.numbers}, the same for both")
    yield ("asked", f"{tuned.settings.asked}, both in the same words")
    if comparison.forgetting:
        yield ("general", str(comparison.forgetting))
    yield ("sandbox", base.held)


def _seconds(scores: Scores) -> str:
    count, known = len(scores.outcomes), scores.remembered
    written = f"written in {scores.writing_seconds:.1f} s"
    if known:
        written = "written earlier" if known == count else f"{known} written earlier, the rest in {written[11:]}"
    how = "run" if scores.tier else "compared"
    return f"{written}, {how} in {scores.running_seconds:.1f} s"


def _tell(console: Console, label: str, value: str) -> None:
    """A label, and its text beside it; on a terminal further lines hang below that."""
    lines = [one_line(value)]
    if console.is_terminal:
        lines = textwrap.wrap(lines[0], max(20, console.width - 9), break_on_hyphens=False)
    text = Text.assemble((f"{label:<9}", "dim"), ("\n" + " " * 9).join(lines))
    console.print(text, soft_wrap=not console.is_terminal)


def _listed(label: str, ids: Sequence[str], width: int) -> Text:
    words = ", ".join(one_line(task) for task in ids) or "none"
    head = f"{label} {len(ids)}"
    lines = textwrap.wrap(words, max(20, width - 13), break_on_hyphens=False)
    if len(lines) > _LISTED_LINES:
        lines = [*lines[:_LISTED_LINES], "... (the --json file has all of them)"]
    return Text.assemble((f"{head:<12} ", "dim"), ("\n" + " " * 13).join(lines))


def _side_by_side(comparison: Comparison, task: Task, console: Console) -> RenderableType:
    answers = [outcome_of(scores, task) for scores in (comparison.base, comparison.tuned)]
    head = Text.assemble(("\n" + one_line(task.task_id), "bold"), "  ", (one_line(task.instruction), "italic"))
    blocks = [_answer(who, outcome) for who, outcome in zip(("base", "tuned"), answers, strict=True)]
    if not console.is_terminal or console.width < 80:
        return Group(head, *blocks)
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
    grid.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
    grid.add_row(*blocks)
    return Group(head, grid)


def _answer(who: str, outcome: Outcome) -> Text:
    passed = outcome.verdict.passed
    detail = "" if passed or not outcome.verdict.detail else f": {one_line(outcome.verdict.detail)[:60]}"
    text = Text.assemble((who, "dim"), "  ", (f"{outcome.verdict.cause}{detail}", "green" if passed else "red"))
    lines = [line for line in printable(outcome.answer).split("\n") if line.strip()] or ["(nothing but white space)"]
    cut = len(lines) - _ANSWER_LINES
    shown = lines[:_ANSWER_LINES] + ([f"... {cut} more lines"] if cut > 0 else [])
    return text.append("".join(f"\n  {line}" for line in shown))


def _escaped(text: str) -> str:
    """A progress bar reads its description as markup."""
    return one_line(text).replace("[", r"\[")
