"""The sections of a report, in the order of a reader: each a function from a run to HTML.

A section of which nothing is known says so in one line, with the command that would change it where there is one.

Not covered: how the page looks as a whole (`page`).
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from luthier.config.outputs import FINAL
from luthier.config.tree import shown
from luthier.doctor import Finding, findings, unjudged
from luthier.doctor.outlook import unsettled
from luthier.doctor.report import changes
from luthier.events.durations import duration
from luthier.events.line import memory_line
from luthier.events.page import facts, lines, table, text
from luthier.events.types import Checked, Evaluated, Notice
from luthier.monitor.drawing import decimal
from luthier.monitor.statistics import time_left
from luthier.report.results import Row, Share
from luthier.report.run import Attempt, Run

_QUICKSTART = ("luthier", "quickstart", "rows")
"""Where its rows lie in the package, on whatever machine it was."""
_MOST_SAMPLES = 8
_LONGEST_VALUE = 200


def asked(run: Run) -> str:
    """What differs from the defaults, with where it was written; what was decided, and why; derived numbers."""
    record = run.record
    if record is None:
        return unknown(f"What was asked for is not known: {run.trouble or 'this is the log of another program'}.")
    own = [
        (
            f'<span title="{text(one.text)}">{text(one.key)}</span>',
            *map(value_in_html, (one.value, one.default)),
            text(_from(one.source)),
        )
        for one in record.asked
    ]
    derived = [(text(name), value_in_html(value), text(how)) for name, value, how in record.derived]
    decided = [(text(key), value_in_html(value), text(how)) for key, value, how in record.decided]
    parts = [
        "<p>What was written, where it is not the default. All else stands in plan.yaml.</p>",
        table(("key", "value", "default", "where it was written"), own),
        "<h3>Derived numbers</h3>",
        table(("number", "value", "arithmetic"), derived),
    ]
    if decided:
        parts += ["<h3>Left to Luthier</h3>", table(("key", "value", "reason"), decided)]
    if record.in_words:
        parts += ["<h3>The plan in words</h3>", facts(record.in_words)]
    return "\n".join(parts)


def rows(run: Run) -> str:
    """What was counted: rows, split, tokens, lengths; and what the checks found before the first step."""
    data = run.record.content.get("data") if run.record else None
    known: list[tuple[str, object]] = []
    if data:
        total = data["train_rows"] + data["eval_rows"]
        unit = "pairs" if data.get("pairs") else "rows"
        known = [
            (f"{unit} to train on", f"{data['train_rows']:,}"),
            (f"{unit} held out", f"{data['eval_rows']:,} ({data['eval_rows'] / max(1, total):.1%})"),
            ("tokens an epoch", f"{data['train_tokens']:,}"),
            (
                "of them trained",
                f"{data['trained_tokens']:,} ({data['trained_tokens'] / max(1, data['train_tokens']):.1%})",
            ),
            ("longest row", f"{data['longest_row_tokens']:,} tokens"),
            ("template", data["template"]),
        ]
    parts = [facts(known)] if known else []
    if run.before:
        said = "".join(f"<li>{text(words)}</li>" for words in run.before)
        parts.append(f"<h3>What was said before the first step</h3>\n<ul>{said}</ul>")
    if run.checks:
        notable = [check for check in run.checks.values() if check.verdict != "passed"]
        passed = [check for check in run.checks.values() if check.verdict == "passed"]
        parts.append("<h3>What the checks before the first step found</h3>")
        parts += [_checks(notable)] if notable else []
        if passed:
            parts.append(f"<details><summary>{len(passed)} passed</summary>\n{_checks(passed)}</details>")
    return "\n".join(parts) or unknown("Nothing is known of the rows: neither log nor record tells of them.")


def _checks(checks: Sequence[Checked]) -> str:
    cells = [(text(one.name), one.verdict, text("; ".join(filter(None, (one.found, one.fix))))) for one in checks]
    return table(("check", "verdict", "found"), cells)


def evaluations(run: Run) -> str:
    """The evaluations as a table, folded."""
    if not run.state.evaluations:
        return unknown(
            "No held-out rows were evaluated: evaluation.eval_steps and data.val_set_size say when and on what."
        )
    cells = [
        (
            f"{one.step:,}",
            f"{one.epoch:.2f}",
            decimal(one.eval_loss),
            *(_rewards(one) if run.state.on_pairs else ()),
            f"{one.eval_tokens:,}",
            "best so far" * one.best,
        )
        for one in run.state.evaluations
    ]
    rewards = ("margin", "chosen ahead") if run.state.on_pairs else ()
    body = table(("step", "epoch", "eval_loss", *rewards, "tokens", ""), cells)
    what = "pairs" if run.state.on_pairs else "rows"
    return f"<details><summary>{len(cells)} evaluations on held-out {what}</summary>\n{body}</details>"


def _rewards(one: Evaluated) -> tuple[str, str]:
    """Margin and accuracy of held-out pairs; empty where the log does not tell them."""
    margin, accuracy = one.reward_margin, one.reward_accuracy
    return "" if margin is None else decimal(margin), "" if accuracy is None else f"{accuracy:.0%}"


def samples(run: Run) -> str:
    """What it wrote at the milestones, side by side; of many, the first, the last and some between."""
    if not run.samples:
        return unknown("It was not asked to write anything: evaluation.sample_prompts says what, sample_steps when.")
    return milestones(run.samples)


def milestones(written: Mapping[tuple[str, int], str]) -> str:
    """What was written, a prompt after the other.

    Args:
        written: (prompt, step) -> text.
    """
    parts = []
    for prompt in dict.fromkeys(prompt for prompt, _ in written):
        steps = sorted(step for asked, step in written if asked == prompt)
        kept = _some(steps)
        left = f" <small>{len(kept)} of {len(steps)} milestones</small>" if len(kept) < len(steps) else ""
        cards = "".join(f"<div>step {step:,}<pre>{lines(written[prompt, step]) or ' '}</pre></div>" for step in kept)
        parts.append(f'<h3>{text(prompt)}{left}</h3>\n<div class="samples">{cards}</div>')
    return "\n".join(parts)


def _some(steps: list[int]) -> list[int]:
    last, count = len(steps) - 1, min(len(steps), _MOST_SAMPLES)
    return [steps[round(index * last / max(1, count - 1))] for index in range(count)]


def diagnosis(run: Run, now: float) -> str:
    """What the doctor finds, as `luthier doctor` says it."""
    found, missing = findings(run.history, now), unjudged(run.history)
    parts = [judged(found, unsettled(run.history, missing), run.history.step)]
    if missing:
        named = ", ".join(f"{text(rule)} ({text(lacks)})" for rule, lacks in missing.items())
        parts.append(f"<details><summary>{len(missing)} rules could not be judged</summary><p>{named}</p></details>")
    return "\n".join(parts)


def judged(found: Sequence[Finding], doubt: str, steps: int) -> str:
    """The findings, worst first; without any, whether the run is healthy.

    Args:
        found: Of the doctor.
        doubt: Why a run without findings cannot be called healthy yet; empty: it can.
        steps: Steps seen.
    """
    if not found:
        said = f"{doubt[:1].upper()}{doubt[1:]}." if doubt else f"Healthy: {steps:,} steps seen."
        return unknown(said if steps else "Nothing to judge yet: no step seen.")
    parts = []
    for one in found:
        about = f"<small>{text(one.rule)}, confidence {one.confidence}</small>"
        change = "\n".join(changes(one.change))
        parts.append(
            f'<section class="finding {one.severity}"><h3>{one.severity.upper()}: {text(one.title)} {about}</h3>\n'
            f"{facts((('seen', one.evidence), ('why', one.why), *((('fix', one.fix),) if one.fix else ())))}"
            + (f"\n<pre>{lines(change)}</pre>" if change else "")
            + "</section>"
        )
    return "\n".join(parts)


def forecasts(run: Run, now: float) -> str:
    """Predicted against taken: memory and time."""
    state, cells = run.state, []
    peak = state.memory_gib
    if run.forecast:
        cells.append(_against("memory, before the model was loaded", run.forecast.gib, peak, _gib))
    if run.rehearsed:
        one = run.rehearsed
        cells.append(
            _against("memory of the largest step, in the rehearsal", one.predicted_gib, one.measured_gib, _gib)
        )
    if not run.forecast and peak > 0:
        cells.append(_against("memory", math.nan, peak, _gib))
    if state.finished:
        finished = state.finished
        if run.expected and len(run.attempts) == 1:
            before = run.expected.remaining_seconds
            cells.append(_against("time, before step 1", before, finished.train_runtime, duration))
        cells.append(_against("time, after 20 steps", finished.predicted_runtime, finished.train_runtime, duration))
    parts = [table(("", "predicted", "taken", "off by"), cells)] if cells else []
    if run.forecast:
        parts.append(f"<p>{text(memory_line(run.forecast))}</p>")
    left = time_left(state, now)
    if left is not None:
        margin = f", give or take {duration(left.margin)}" if math.isfinite(left.margin) else ""
        parts.append(f"<p>Still to go at this speed: {duration(left.seconds)}{margin}.</p>")
    return "\n".join(parts) or unknown("Neither memory nor time was predicted or told.")


def _gib(gib: float) -> str:
    return f"{gib:.2f} GiB"


def _against(name: str, predicted: float, taken: float, as_text: Any) -> tuple[str, str, str, str]:
    known = [as_text(value) if math.isfinite(value) and value > 0 else "not known" for value in (predicted, taken)]
    off = f"{100 * (predicted / taken - 1):+.0f} %" if predicted > 0 and taken > 0 else ""
    return (text(name), *known, off)  # type: ignore[return-value]


def attempts(run: Run) -> str:
    """Every start of the run, how it ended, and what was given up on the way."""
    cells = [
        (f"{number}", _moment(one.started), f"{one.first_step:,}", f"{one.last_step:,}", text(_ending(run, one)))
        for number, one in enumerate(run.attempts, 1)
    ]
    parts = [table(("attempt", "started", "from step", "to step", "how it ended"), cells)] if cells else []
    passed = [words for one in run.attempts if one.resumed for words in one.resumed.passed_over]
    passed += run.record.facts.get("resumed_with", []) if run.record else []
    if passed:
        parts.append(f"<h3>Not as it was</h3>\n<ul>{''.join(f'<li>{text(words)}</li>' for words in passed)}</ul>")
    if run.warnings:
        parts.append(f"<h3>Warnings on the way</h3>\n{notices(run.warnings)}")
    return "\n".join(parts) or unknown("The log does not tell its starts.")


def notices(said: Iterable[Notice]) -> str:
    """What a run said of itself, as a table."""
    cells = [(_step(one.step), one.severity, text(one.text), f"<code>{text(one.change)}</code>") for one in said]
    return table(("step", "", "what", "line to change"), cells)


def _ending(run: Run, attempt: Attempt) -> str:
    if attempt.finished:
        reason = f": {attempt.finished.reason}" if attempt.finished.reason else ""
        return f"{attempt.finished.status}{reason}"
    if attempt is run.attempts[-1]:
        return f"no last word: it goes on, or was killed; heard last {_moment(attempt.updated)}"
    return "no last word: killed, or the machine was lost"


def measured(run: Run) -> str:
    """Comparisons and scores that were made, with their statistics; else the command that makes one."""
    parts = []
    for one in run.results.compared:
        parts.append(f"<h3>{text(one.tasks)} <small>{text(one.run)}, from {text(one.file)}</small></h3>")
        parts.append(f"<p><strong>{text(one.verdict)}</strong></p>")
        heads = ("pass@1 in %", "tasks", "base", "tuned", "change (95 % CI)", "gained", "lost", "p")
        parts.append(table(heads, [_compared(row) for row in one.rows]))
        parts += [f"<p>General text, loss: {text(one.forgetting)}.</p>"] * bool(one.forgetting)
    for scored in run.results.scored:
        parts.append(
            f"<h3>{text(scored.tasks)} <small>{text(scored.model)} alone, from {text(scored.file)}</small></h3>"
        )
        parts.append(table(("", "in % (95 % CI)"), [(text(name), _share(share)) for name, share in scored.shares]))
    if not run.results.compared:
        parts.append(_not_compared(run))
    return "\n".join(parts)


def _not_compared(run: Run) -> str:
    """What would have to be done; only what can be done with what lies here."""
    said = "Not measured: base and tuned model were not compared, or no file says so."
    folder = run.path if run.path.is_dir() else run.path.parent
    if run.get("model.from_scratch"):
        return unknown(f"{said} It was trained from random weights, so it has no base of its own.")
    if not (folder / FINAL).is_dir():
        return unknown(f"{said} There is no {FINAL} here to be compared.")
    sources: Any = run.get("data.datasets") or []
    at_home = [PurePath(str(one["path"])).parts[-4:-1] == _QUICKSTART for one in sources if isinstance(one, dict)]
    tasks = "quickstart" if at_home and all(at_home) else "tasks.jsonl"
    about = "" if tasks == "quickstart" else " tasks.jsonl is a file of yours: a question and its answer in each line."
    place = shlex.quote(str(folder))
    command = f"luthier compare {place} --tasks {tasks} --json {place}/comparison.json"
    return f"{unknown(f'{said} This does it:')}\n<pre>{lines(command)}</pre>\n<p>Then make this page again.{about}</p>"


def _compared(row: Row) -> tuple[str, ...]:
    change = f"{100 * row.difference:+.1f} ({100 * row.low:+.0f} to {100 * row.high:+.0f})"
    p = "&lt;0.001" if row.p < 0.001 else f"{row.p:.3f}"
    cells = (f"{row.tasks:,}", _share(row.base), _share(row.tuned), change, f"{row.gained:,}", f"{row.lost:,}", p)
    return (text(row.split) or "(none)", *cells)


def _share(share: Share) -> str:
    return f"{100 * share.share:.1f} ({100 * share.low:.0f} to {100 * share.high:.0f})"


def repeat(run: Run) -> str:
    """The command that does it again, whether that is the whole of it, versions and hashes."""
    record = run.record
    if record is None:
        return unknown(f"It cannot be repeated from its record: {run.trouble or 'there is none'}.")
    known = record.facts
    command = f"luthier train --from {shlex.quote(str(record.path))}"
    changed = [*known.get("resumed_with", []), *known.get("differs", [])]
    piece = "It is of one piece: nothing changed on its way, so this does all of it again."
    if changed:
        piece = f"It is not of one piece, or not what it repeats: {'; '.join(changed)}."
    elif len(run.attempts) > 1:
        piece = "It was resumed, with nothing changed; resumes are exact, so this does all of it again in one piece."
    hashes = [(name, value) for name, value in known["inputs"].items() if not isinstance(value, dict)]
    hashes += [
        (f"{name}: {file}", sha)
        for name, of in known["inputs"].items()
        if isinstance(of, dict)
        for file, sha in of.items()
    ]
    started = [("commands", command) for command in known.get("commands", [])]
    return "\n".join(
        (
            f"<pre>{lines(command)}</pre>\n<p>{text(piece)}</p>",
            facts([*started, *known["surroundings"].items()]),
            "<h3>SHA-256 of what it was made from</h3>",
            facts(hashes),
        )
    )


def _step(step: int | None) -> str:
    return "" if step is None else f"{step:,}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds > 0 else "not known"


def _from(source: str) -> str:
    return {"override": "the command line", "dict": "Python"}.get(source, source)


def value_in_html(value: Any) -> str:
    """A value of the config, cut where it is very long."""
    return text(shown(value, _LONGEST_VALUE)).replace("/", "/<wbr>")  # where a path may go on in a new line


def unknown(words: str) -> str:
    """What takes the place of a section of which nothing is known."""
    return f'<p class="unknown">{text(words)}</p>'
