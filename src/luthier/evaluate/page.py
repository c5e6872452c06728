"""Comparisons as one page of HTML: opens from a file, loads nothing, runs nothing.

Every text of a model or a tasks file is escaped (`luthier.events.page`).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import islice

from luthier.evaluate.compare import Change, Comparison
from luthier.evaluate.score import Outcome, Scores
from luthier.evaluate.tasks import Task
from luthier.evaluate.words import causes, outcome_of, p_value, percent, points, telling_tasks
from luthier.events.page import facts, lines, table, text
from luthier.events.page import page as document

_STYLE = """
:root { --base: #8a94a6; --tuned: #3b7ea1; }
@media (prefers-color-scheme: dark) { :root { --base: #8f9bb0; --tuned: #63b1d8; } }
.verdict { border-left: 4px solid var(--line); padding: .4rem .8rem; background: var(--soft); font-weight: 600; }
.better { border-color: var(--good); } .worse { border-color: var(--bad); }
tr.all { font-weight: 600; } dd { overflow-wrap: anywhere; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
@media (max-width: 48rem) { .sides { grid-template-columns: 1fr; } }
.bar { height: .5rem; border-radius: 2px; min-width: 2px; } .bar.tuned { margin-top: 2px; } td.bars { width: 16rem; }
.key { display: inline-block; width: .6rem; height: .6rem; border-radius: 2px; margin-right: .3rem; }
.bar.base, .key.base { background: var(--base); } .bar.tuned, .key.tuned { background: var(--tuned); }
"""


def page(comparisons: Sequence[Comparison], samples: int) -> str:
    """The whole page: each comparison with its verdict, its table, what changed, and answers side by side.

    Args:
        comparisons: At least one.
        samples: How many tasks of each to show with both answers.
    """
    body = (
        "<h1>Before and after</h1>",
        _summary(comparisons) if len(comparisons) > 1 else "",
        *(_section(one, samples) for one in comparisons),
    )
    return document("Luthier: before and after", _STYLE, body)


def _summary(comparisons: Sequence[Comparison]) -> str:
    rows = [
        (
            text(one.run),
            text(one.tasks.name),
            points(one.overall),
            escape(p_value(one.overall.corrected)),
            f'<span class="{_color(one.overall)}">{one.conclusion}</span>',
        )
        for one in comparisons
    ]
    return table(("run", "tasks", "change (95 % CI)", "p (Holm)", "fine-tuning"), rows)


def _color(change: Change) -> str:
    return "good" if change.better else "bad" if change.worse else ""


def _section(one: Comparison, samples: int) -> str:
    head = f"{text(one.run)} <small>beside its base {text(one.base_name)} on {text(one.tasks.name)}</small>"
    kind = one.conclusion.partition(" ")[0]
    base, tuned = (f'<span class="key {who}"></span>{who}' for who in ("base", "tuned"))
    columns = ("pass@1 in %", "", "tasks", base, tuned, "change (95 % CI)", "gained", "lost", "p")
    heads = "".join(f"<th>{name}</th>" for name in columns)
    return "\n".join(
        (
            f'<h2>{head}</h2>\n<p class="verdict {kind}">{text(one.verdict)}</p>',
            f"<table><thead><tr>{heads}</tr></thead><tbody>",
            *(_row(change, change is one.overall) for change in (*one.splits, one.overall)),
            f"</tbody></table>\n{_facts(one)}",
            *(_side_by_side(one, task) for task in islice(telling_tasks(one), samples)),
        )
    )


def _row(change: Change, overall: bool) -> str:
    bars = "".join(
        f'<div class="bar {who}" style="width: {100 * rate.share:.1f}%"></div>'
        for who, rate in (("base", change.base), ("tuned", change.tuned))
    )
    cells = (percent(change.base), percent(change.tuned), f'<span class="{_color(change)}">{points(change)}</span>')
    counts = (len(change.gained), len(change.lost), escape(p_value(change.p)))
    row = "".join(f"<td>{cell}</td>" for cell in (change.base.tasks, *cells, *counts))
    name = text(change.split) or "(none)"
    kind = "all" if overall else ""
    return f'<tr class="{kind}"><td>{name}</td><td class="bars">{bars}</td>{row}</tr>'


def _facts(one: Comparison) -> str:
    settings = one.tuned.settings
    found = [
        ("base", _causes(one.base)),
        ("tuned", _causes(one.tuned)),
        ("weights", f"{one.numbers}, the same for both"),
        ("asked", f"{settings.asked}, both in the same words; at most {settings.max_new_tokens} tokens"),
        *([("general text", str(one.forgetting))] if one.forgetting else []),
        ("sandbox", one.base.held),
        (f"gained {len(one.overall.gained)}", ", ".join(one.overall.gained) or "none"),
        (f"lost {len(one.overall.lost)}", ", ".join(one.overall.lost) or "none"),
    ]
    return facts(found)


def _causes(scores: Scores) -> str:
    told = causes(scores)
    return told if scores.valid_syntax is None else f"{told}; {scores.valid_syntax:.0%} of the answers are Python"


def _side_by_side(one: Comparison, task: Task) -> str:
    sides = "".join(
        f"<div>{who} {_verdict(outcome)}<pre>{lines(outcome.answer)}</pre></div>"
        for who, outcome in (("base", outcome_of(one.base, task)), ("tuned", outcome_of(one.tuned, task)))
    )
    tests = lines(str(task.expected or "\n".join(task.tests)))
    asked = f"<details><summary>{text(task.instruction)}</summary><pre>{tests}</pre></details>"
    return f'<h3>{text(task.task_id)}</h3>\n{asked}\n<div class="sides">{sides}</div>'


def _verdict(outcome: Outcome) -> str:
    passed = outcome.verdict.passed
    detail = "" if passed or not outcome.verdict.detail else f": {outcome.verdict.detail}"
    kind = "good" if passed else "bad"
    return f'<span class="{kind}">{text(outcome.verdict.cause + detail)}</span>'
