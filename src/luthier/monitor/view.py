"""The panel as lines: a pure function from a state, a moment and a size to something rich can print.

Each line is a name, a value, and in dim words what the value means, as long as the width allows. When the height does
not allow all lines, those that matter least go first. What a model or a data set wrote is stripped of control
characters, and no string from outside is read as markup.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from rich.box import ROUNDED
from rich.console import Group
from rich.panel import Panel as Box
from rich.text import Text

from luthier.events.durations import duration
from luthier.events.line import significant
from luthier.events.printable import one_line, printable, short_name
from luthier.events.types import Notice, Sampled
from luthier.monitor.drawing import ACCENT, bar, count, decimal, epochs, sparkline
from luthier.monitor.state import RunState
from luthier.monitor.statistics import elapsed, time_left
from luthier.monitor.words import accuracy_of, margin_of, outcome, perplexity, rate_trend

NARROWEST, LOWEST = 40, 6

_LABEL_WIDTH = 12
_VALUE_WIDTH = 46
_CURVE_WIDTH = 43
_COLORS = {"info": "cyan", "warning": "yellow", "critical": "bold red"}
_MOST_WARNINGS = 3
_MARKS = {"info": "i", "warning": "!", "critical": "!!"}
_STATUS_COLORS = {"done": "green", "stopped": "yellow", "failed": "red"}


@dataclass(frozen=True)
class _Row:
    """A line with its meaning in words. The lines with the highest `rank` go first when there is no room."""

    label: str
    value: Text
    meanings: tuple[str, ...]
    """Longest first; the first that fits is shown."""
    rank: int


def render(state: RunState, now: float, width: int, height: int) -> Box:
    """The panel: at most `height` lines of exactly `width` cells.

    Args:
        state: The run.
        now: The moment, on the clock that the state was folded with.
        width: Cells of the terminal, at least `NARROWEST`.
        height: Lines of the terminal, at least `LOWEST`.
    """
    inner = max(width, NARROWEST) - 4
    room = max(height, LOWEST) - 2
    lines = [_progress(state, inner)]
    rows = _rows(state, now, inner)
    reserved = _reserved(state.notices, inner, room)
    while rows and len(rows) + 2 + reserved > room:
        rows.remove(max(rows, key=lambda row: row.rank))
    if rows:
        lines += [Text(), *_aligned(rows, inner)]
    for block in (_notices(state.notices, inner, room - len(lines) - 1), _samples(state.samples)):
        left = room - len(lines) - 1
        if block and left >= 2:
            lines += [Text(), *block[:left]]
    for line in lines:
        line.truncate(inner, overflow="ellipsis")
    return Box(
        Group(*lines[:room]),
        title=_title(state, inner),
        title_align="left",
        box=ROUNDED,
        border_style="dim",
        width=inner + 4,
        padding=(0, 1),
    )


def summary(state: RunState, width: int) -> list[Text]:
    """The few lines that stay on the screen when the run is over, none longer than `width` cells."""
    lines = _results(state)
    warnings = [notice for notice in state.notices if notice.severity != "info"]
    if (more := len(warnings) - _MOST_WARNINGS) > 0:
        lines.append(Text(f"   {more} more before these: luthier watch, pane 3", "dim"))
    for notice in warnings[-_MOST_WARNINGS:]:
        lines += _notice(notice, width)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _results(state: RunState) -> list[Text]:
    finished = state.finished
    if finished is None:
        name = one_line(state.run) or "run"
        return [Text.assemble(("● ", "yellow"), (name, "bold"), f"  left at step {state.step:,}")]
    color = _STATUS_COLORS[finished.status]
    head = Text.assemble(("● ", color), (one_line(state.run) or "run", "bold"), (f"  {finished.status}", color))
    head.append(f"  step {finished.step:,}" + (f" of {state.total_steps:,}" if state.total_steps else ""))
    gone = elapsed(state, state.updated)
    head.append(f", {duration(gone)}" if math.isfinite(gone) else "")
    reason = [Text(f"  {one_line(finished.reason)}")] if finished.reason else []
    return [head, *reason, *(_fact(*fact) for fact in outcome(state, finished))]


def _fact(label: str, value: str, meaning: str) -> Text:
    return Text.assemble(
        (f"  {label:<{_LABEL_WIDTH}}", "dim"), (value, "bold"), (f"  {meaning}" if meaning else "", "dim")
    )


def _title(state: RunState, inner: int) -> Text:
    name = short_name(str(state.plan.get("model.model_name_or_path", "")))
    title = Text.assemble(
        ("Luthier", f"not dim bold {ACCENT}"), "  ", (one_line(state.run) or "starting", "not dim bold")
    )
    if name:
        title.append(f"  {name}")
    if state.trainable_parameters:
        share = state.trainable_parameters / max(1, state.parameters)
        title.append(f"  {count(state.trainable_parameters)} of {count(state.parameters)} trained ({share:.1%})")
    title.truncate(inner - 2, overflow="ellipsis")
    return title


def _progress(state: RunState, inner: int) -> Text:
    share = state.step / state.total_steps if state.total_steps else 0.0
    done, of = epochs(state.epoch, state.epochs)
    where = Text.assemble(
        ("step ", "dim"), (f"{state.step:,}", "bold"), (f" / {state.total_steps:,}", ""),
        ("   epoch ", "dim"), (done, "bold"), (f" / {of}" if of else "", ""),
    )  # fmt: skip
    percent = f" {share:4.0%}"
    width = inner - where.cell_len - len(percent) - 3
    if width >= 8:
        full, empty = bar(share, width)
        where.append("   ").append(full, ACCENT).append(empty, "dim").append(percent, "bold")
    return where


def _aligned(rows: list[_Row], inner: int) -> Iterable[Text]:
    value_width = min(_VALUE_WIDTH, max(row.value.cell_len for row in rows))
    for row in rows:
        line = Text.assemble((f"{row.label:<{_LABEL_WIDTH}}", "dim"), row.value)
        room = inner - _LABEL_WIDTH - max(value_width, row.value.cell_len) - 3
        meaning = next((text for text in row.meanings if len(text) <= room), "")
        if meaning:
            line.append(" " * (max(value_width - row.value.cell_len, 0) + 3)).append(meaning, "dim italic")
        yield line


def _rows(state: RunState, now: float, inner: int) -> list[_Row]:
    rows = [*_loss_rows(state, inner), *_optimizer_rows(state), *_machine_rows(state, inner), _time_row(state, now)]
    if (saved := state.checkpoint) is not None:
        value = Text.assemble((f"step {saved.step:,}", "bold"), f"  {count(saved.bytes)}B in {saved.seconds:.1f} s")
        rows.append(_Row("checkpoint", value, ("a crash costs the steps since then", "kept for a crash"), 6))
    return rows


def _loss_rows(state: RunState, inner: int) -> Iterable[_Row]:
    if state.log is None:
        words = "loading" if state.status == "starting" else "waiting for the first log line"
        yield _Row("loss", Text(words, "dim"), (), 0)
        return
    loss = state.log.loss
    value = _strong(decimal(loss), math.isfinite(loss))
    if state.smoothed_loss is not None and state.first_loss is not None:
        value.append(f"  smoothed {decimal(state.smoothed_loss)}  first {decimal(state.first_loss)}")
    ends = ("0 = every token certain", "0 = certain")
    if state.on_pairs:
        ends = ("0.693 = chance, 0 = all pairs told apart", "0.693 = chance")
    yield _Row("loss", value, (*(f"lower is better; {end}" for end in ends), "lower is better"), 0)
    if len(state.history) > 1:
        curve = sparkline([point.loss for point in state.history], min(_CURVE_WIDTH, inner - _LABEL_WIDTH))
        words = f"perplexity {perplexity(state.smoothed_loss)}"
        told = () if state.on_pairs else (f"{words}: as unsure as a choice among so many tokens", words)
        yield _Row("", Text(curve, ACCENT), told, 4)
    if state.evaluations:
        last, best = state.evaluations[-1], state.best or state.evaluations[-1]
        value = _strong(decimal(last.eval_loss), math.isfinite(last.eval_loss)).append(
            f"  best {decimal(best.eval_loss)} at step {best.step:,}"
        )
        what = "pairs" if state.on_pairs else "rows"
        meanings = (
            f"the loss on {what} it never trains on; rising = overfitting",
            f"on {what} it never trains on",
            f"on unseen {what}",
        )
        yield _Row("eval loss", value, meanings, 1)
    yield from _pair_rows(state)


def _pair_rows(state: RunState) -> Iterable[_Row]:
    """What only a run that learns from pairs of answers has."""
    if state.log is None or not state.on_pairs:
        return
    accuracy, margin = accuracy_of(state), margin_of(state)
    told = ("of the pairs, how many have the chosen answer ahead", "pairs told apart")
    yield _Row("accuracy", Text("  ").join((_strong(accuracy[0]), *map(Text, accuracy[1:]))), told, 2)
    meanings = ("how far apart the answers are; should rise from 0", "should rise from 0", "rises from 0")
    yield _Row("margin", Text("  ").join((_strong(margin[0]), *map(Text, margin[1:]))), meanings, 3)


def _optimizer_rows(state: RunState) -> Iterable[_Row]:
    if state.log is None:
        return
    rate = _strong(f"{significant(state.log.learning_rate, 4):g}").append(rate_trend(state)[0])
    yield _Row("learn rate", rate, ("how far one step moves the weights", "length of a step"), 2)
    norm = state.log.grad_norm
    value = _strong(decimal(norm), math.isfinite(norm))
    limit = state.max_grad_norm
    if limit > 0:
        value.append(f"  {'shortened to' if norm > limit else 'below the limit of'} {limit:g}")
    meanings = (
        "length of the gradient: how strongly the data pulls",
        "how strongly the data pulls",
        "pull of the data",
    )
    yield _Row("gradient", value, meanings, 5)


def _strong(number: str, healthy: bool = True) -> Text:
    """The number that a line is about; what is appended to it is plain."""
    return Text.assemble((number, "bold" if healthy else "bold red"))


def _machine_rows(state: RunState, inner: int) -> Iterable[_Row]:
    if state.log is None:
        return
    speed = _strong(count(state.log.tokens_per_second))
    speed.append(f" tokens/s  {count(state.log.step_seconds)} s a step  {count(state.log.num_tokens)} seen")
    yield _Row("speed", speed, ("prompts included, padding excluded", "without padding"), 3)
    used, total = state.memory_gib, state.device_gib
    memory = _strong(f"{used:.2f}")
    meanings = ("most memory held at once so far", "highest so far")
    if total > 0 and math.isfinite(used):
        full, empty = bar(used / total, min(16, max(4, inner // 6)))
        color = "red" if used > 0.95 * total else "yellow" if used > 0.85 * total else ACCENT
        memory.append(f" / {total:.1f} GiB ").append(full, color).append(empty, "dim")
    else:
        memory.append(" GiB")
    yield _Row("memory", memory, meanings, 3)


def _time_row(state: RunState, now: float) -> _Row:
    gone = max(0.0, now - state.started) if state.started else 0.0
    left, value = time_left(state, now), Text()
    if left is not None:
        value.append(duration(left.seconds), "bold").append(" left  ")
    value.append(f"{duration(gone)} gone")
    meanings = ("at the speed of the last steps", "at this speed") if left else ()
    return _Row("time", value, meanings if state.logged_at else ("as the rehearsal predicts",) * (left is not None), 1)


def _reserved(notices: tuple[Notice, ...], inner: int, room: int) -> int:
    """Lines to keep free for the newest warning, which matters more than the last numbers."""
    warnings = [notice for notice in notices if notice.severity != "info"]
    return 1 + len(_notice(warnings[-1], inner)) if warnings and room >= 10 else 0


def _notices(notices: tuple[Notice, ...], inner: int, room: int) -> list[Text]:
    """Up to three notices, the oldest first: the newest warnings and errors, and what room they leave for others.

    All but the most pressing one give way when they take more than half of it.
    """
    pressing = sorted(range(len(notices)), key=lambda number: (notices[number].severity != "info", number))
    blocks: dict[int, list[Text]] = {}
    for number in reversed(pressing[-_MOST_WARNINGS:]):
        block = _notice(notices[number], inner)
        if blocks and sum(map(len, blocks.values())) + len(block) > max(2, room // 2):
            break
        blocks[number] = block
    return [line for number in sorted(blocks) for line in blocks[number]]


def _notice(notice: Notice, width: int) -> list[Text]:
    first, *rest = textwrap.wrap(one_line(notice.text), max(20, width - 3), max_lines=3, placeholder=" …") or [""]
    block = [Text.assemble((f"{_MARKS[notice.severity]:<3}", _COLORS[notice.severity]), first)]
    block += [Text(f"   {line}") for line in rest]
    if notice.change:
        block.append(Text.assemble(("   change  ", "dim"), (one_line(notice.change), "bold")))
    return block


def _samples(samples: tuple[Sampled, ...]) -> list[Text]:
    if not samples:
        return []
    sample = samples[-1]
    prompt = one_line(sample.prompt)
    lines = [Text.assemble((f"it writes at step {sample.step:,}  ", "dim"), (prompt, "dim italic"))]
    written = [line for line in printable(sample.text).split("\n") if line.strip()]
    return lines + [Text(f"  {line}") for line in written or ["(nothing but white space)"]]
