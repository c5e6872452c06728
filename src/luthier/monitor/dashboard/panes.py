"""The parts of the screen that are words: pure functions from a scene and a size to lines.

What comes from a file is stripped of control characters, and nothing of it is read as markup. Not covered: the curves
(`charts`), the numbers of the overview (`metrics`).
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from luthier.doctor import Change, Finding
from luthier.events.durations import duration
from luthier.events.printable import one_line, printable
from luthier.events.types import Notice, Timing
from luthier.monitor.dashboard.palette import ACCENT, GOOD, SEVERITY, STATUS, WARNING
from luthier.monitor.dashboard.scene import Scene, WatchedRun
from luthier.monitor.drawing import bar, count, epochs
from luthier.monitor.state import RunState
from luthier.monitor.statistics import elapsed, shares, time_left

_ROOMY = 5


def header(scene: Scene, width: int) -> Text:
    """Who it is, how it is going, and where this is read from."""
    run = scene.run
    words = status(run)
    text = Text.assemble(
        (" Luthier ", f"bold {ACCENT}"),
        (one_line(run.state.run) or one_line(run.name), "bold"),
        "  ",
        (words, f"bold {STATUS.get(run.state.status, '')}".strip()),
        no_wrap=True,
    )
    if scene.settings.paused:
        text.append("  paused", f"bold {WARNING}")
    path = one_line(run.path)
    for where in (f"{path} ({one_line(run.source)})", path, path.rstrip("/").rsplit("/", 1)[-1]):
        gap = width - text.cell_len - cell_len(where) - 1
        if gap >= 2:
            text.append(" " * gap).append(f"{where} ", "not bold dim")
            break
    text.truncate(width, overflow="ellipsis")
    return text


def status(run: WatchedRun) -> str:
    """How it is going, in a word or two."""
    state = run.state
    if not state.updated:
        return "waiting for the file" if run.source.startswith("waiting") else "no log line yet"
    return f"silent for {duration(run.now - state.updated)}" if run.silent else state.status


def progress(scene: Scene, width: int) -> Text:
    """Step, epoch, a bar, and the time; without the seconds that are gone, and the epoch, where they do not fit."""
    run, state = scene.run, scene.run.state
    share = state.step / state.total_steps if state.total_steps else 0.0
    text = Text.assemble((" step ", "dim"), (f"{state.step:,}", "bold"), no_wrap=True)
    if state.total_steps:
        text.append(f"/{state.total_steps:,}")
    parts = [part for part in (epoch(state), *times(run)) if part]
    while len(parts) > 1 and text.cell_len + sum(2 + part.cell_len for part in parts) > width:
        parts.pop(2 if len(parts) > 2 else 0)
    percent = f" {share:.0%}" if state.total_steps else ""
    room = width - text.cell_len - len(percent) - sum(2 + part.cell_len for part in parts) - 4
    if room >= 6 and state.total_steps:
        full, empty = bar(share, room)
        at = 1 if epoch(state) else 0
        parts.insert(at, Text.assemble((full, ACCENT), (empty, "dim"), (percent, "bold")))
    for part in parts:
        text.append("  ").append_text(part)
    text.truncate(width, overflow="ellipsis")
    return text


def epoch(state: RunState) -> Text:
    """`epoch 1.20/3`; empty where it is not known."""
    if not math.isfinite(state.epoch):
        return Text()
    done, of = epochs(state.epoch, state.epochs)
    return Text.assemble(("epoch ", "dim"), (done, "bold"), f"/{of}" if of else "")


def times(run: WatchedRun) -> tuple[Text, Text]:
    """What is left, and what is gone."""
    state, left, gone = run.state, time_left(run.state, run.now), elapsed(run.state, run.now)
    if state.finished is not None:
        return Text(), Text(f"{duration(gone)} in all" if math.isfinite(gone) else "")
    return (
        Text.assemble((duration(left.seconds), "bold"), " left") if left and not run.silent else Text(),
        Text(f"{duration(gone)} gone", "dim") if math.isfinite(gone) else Text(),
    )


def digest(scene: Scene, width: int, height: int) -> Text:
    """The worst findings, a title and a line to change each, as many as there is room for."""
    run = scene.run
    lines: list[Text] = []
    if not run.findings:
        doubt = run.unsettled if height >= _ROOMY else run.unsettled.partition(". ")[0]
        words = doubt or "nothing found that is wrong"
        mark = "✓  " if run.state.logged and not run.unsettled else "   "
        first, *rest = _wrapped(words if run.state.logged else "the doctor waits for log lines", width - 4)
        lines += [Text.assemble((mark, GOOD), (first, "dim")), *(Text(f"   {part}", "dim") for part in rest)]
    for finding in run.findings:
        mark, color = SEVERITY[finding.severity]
        block = [Text.assemble((f"{mark:<3}", color), (one_line(finding.title), "bold"))]
        if height < _ROOMY:
            block[0].append(f"  {one_line(finding.evidence)}", "not bold dim")
        else:
            block += [Text(f"   {part}", "dim") for part in _wrapped(finding.evidence, width - 4)]
        todo = [_change(change, width) for change in finding.change[:1]] or _fix(finding, width)
        if not lines or len(lines) + len(block) + len(todo) <= height or finding.change:
            block += todo
        if lines and len(lines) + len(block) > height:
            break
        lines += block
    return _cut(lines, width, height)


def findings(scene: Scene, width: int) -> Text:
    """All that the doctor found, worst first, and all that the run itself said."""
    run = scene.run
    lines: list[Text] = []
    if not run.findings:
        seen = run.unsettled or "The doctor has found nothing that is wrong."
        lines += [*map(Text, _wrapped(seen if run.state.logged else "No log line yet.", width)), Text()]
    for finding in run.findings:
        lines += [*_finding(finding, width), Text()]
    if run.state.notices:
        lines.append(Text("What the run itself said, newest first", "bold"))
        for notice in reversed(run.state.notices):
            lines += _notice(notice, width)
    return _cut(lines, width, None)


def _finding(finding: Finding, width: int) -> Iterator[Text]:
    mark, color = SEVERITY[finding.severity]
    head = Text.assemble((f"{mark:<3}", color), (one_line(finding.title), "bold"))
    where = f" at step {finding.step:,}" if finding.step is not None else ""
    yield head.append(f"  {finding.severity}{where}, {one_line(finding.rule)}, confidence {finding.confidence}", "dim")
    for text, style in ((finding.evidence, ""), (finding.why, "dim")):
        for part in _wrapped(text, width - 4):
            yield Text(f"   {part}", style)
    yield from _fix(finding, width)
    for change in finding.change:
        yield _change(change, width)


def _fix(finding: Finding, width: int) -> list[Text]:
    """What the run's own error says to do."""
    first, *rest = _wrapped(finding.fix, width - 9) or [""]
    lines = [Text.assemble(("   fix  ", "dim"), (first, ACCENT)), *(Text(f"        {part}", ACCENT) for part in rest)]
    return lines if finding.fix else []


def _change(change: Change, width: int) -> Text:
    return _to_write(f"{change.key}: {change.new}", f"   # was {one_line(change.old)}" if change.old else "", width)


def _to_write(line: str, was: str, width: int) -> Text:
    """A line of YAML, with as much around it as there is room for: its value matters most."""
    line = one_line(line)
    key, colon, value = line.partition(":")
    bare = f"{key.rpartition('.')[2]}{colon}{value}"
    forms = (("   change  ", line, was), ("   change  ", line, ""), ("   ", line, ""), ("   ", bare, ""))
    texts = [Text.assemble((a, "dim"), (b, f"bold {ACCENT}"), (c, "not bold dim")) for a, b, c in forms]
    return next((text for text in texts if text.cell_len <= width), texts[-1])


def _notice(notice: Notice, width: int) -> Iterator[Text]:
    mark, color = SEVERITY[notice.severity]
    where = f"step {notice.step:,}: " if notice.step is not None else ""
    first, *rest = _wrapped(f"{where}{notice.text}", width - 4) or [""]
    yield Text.assemble((f"{mark:<3}", color), first)
    yield from (Text(f"   {part}") for part in rest)
    if notice.change:
        yield _to_write(notice.change, "", width)


def samples(scene: Scene, width: int) -> Text:
    """What the model wrote, the newest milestone first."""
    written = scene.run.state.samples
    if not written:
        words = "The model has not written anything yet. evaluation.sample_prompts and sample_steps say what and when."
        return _cut([Text(part, "dim") for part in _wrapped(words, width)], width, None)
    lines: list[Text] = []
    for step in sorted({sample.step for sample in written}, reverse=True):
        lines.append(Text(f"step {step:,}", f"bold {ACCENT}"))
        for sample in written:
            if sample.step == step:
                lines += [Text(f"> {part}", "dim italic") for part in _wrapped(sample.prompt, width - 2)]
                lines += [Text(f"  {part}") for part in _written(sample.text, width - 2)]
                lines.append(Text())
    return _cut(lines, width, None)


def last_sample(scene: Scene, width: int, height: int) -> Text:
    """The newest thing that the model wrote."""
    written = scene.run.state.samples
    if not written or height < 2:
        return Text()
    sample = written[-1]
    lines = [Text(f"it writes at step {sample.step:,}", "dim")]
    lines += [Text(f"> {part}", "dim italic") for part in _wrapped(sample.prompt, width - 2)]
    return _cut([*lines, *(Text(f"  {part}") for part in _written(sample.text, width - 2))], width, height)


def _written(text: str, width: int) -> list[str]:
    """The lines of a generated text, long ones folded, its own breaks and indents kept."""
    width = max(1, width)
    lines = printable(text).split("\n")
    folded = [line[i : i + width] for line in lines for i in range(0, max(1, len(line)), width)]
    while folded and not folded[-1].strip():
        folded.pop()
    return folded or ["(nothing but white space)"]


def facts(run: WatchedRun) -> list[tuple[str, str]]:
    """Where it is read from, sizes, and what is kept of it: (name, words)."""
    state = run.state
    found = [("read from", f"{run.path} ({run.source})"), ("run", state.run or "unknown")]
    if state.parameters:
        share = state.trainable_parameters / state.parameters
        found.append(
            ("parameters", f"{count(state.parameters)}, {count(state.trainable_parameters)} trained ({share:.2%})")
        )
    if state.resumed is not None:
        found.append(("resumed", f"at step {state.resumed.step:,} from {state.resumed.path}"))
    if state.checkpoint is not None:
        found.append(("checkpoint", f"{state.checkpoint.path}, {count(state.checkpoint.bytes)}B"))
    if state.finished is not None and state.finished.final_model:
        found.append(("final model", state.finished.final_model))
    return found


def about(scene: Scene, width: int) -> Text:
    """The run and its config."""
    run, state = scene.run, scene.run.state
    lines = [_fact(name, value) for name, value in facts(run)]
    parts = shares(state.timings)
    if parts:
        lines += [Text(), Text("Where the seconds of a step go", "bold")]
        for name, share in parts:
            full, empty = bar(share, max(4, min(40, width - 24)))
            lines.append(
                Text.assemble((f"  {name:<12}", "dim"), (f"{share:>4.0%}  ", "bold"), (full, ACCENT), (empty, "dim"))
            )
    if state.timings:
        lines += _by_rank(state.timings[-1], width)
    if state.plan:
        lines += [Text(), Text("Config, as in plan.yaml", "bold"), *_config(state.plan)]
    return _cut(lines, width, None)


def _by_rank(last: Timing, width: int) -> Iterator[Text]:
    """Seconds and memory of each rank; of a sharded model nobody's seconds are its own."""
    if not last.own_memory_gib:
        return
    what, most = "Seconds of a step by rank, without waiting for the others", max(last.own_seconds, default=0.0)
    yield from (Text(), Text(what if last.own_seconds else "Memory by rank", "bold"))
    for rank, (seconds, gib) in enumerate(zip_longest(last.own_seconds, last.own_memory_gib, fillvalue=0.0)):
        line = Text.assemble((f"  rank {rank:<7}", "dim"), (f"{seconds:>7.3g} s" * bool(most), "bold"))
        line.append(f"  {gib:>5.1f} GiB  ", "bold")
        if most:
            full, empty = bar(seconds / most, max(4, min(40, width - 36)))
            line.append(full, ACCENT).append(empty, "dim")
        yield line


def _fact(name: str, value: str) -> Text:
    return Text.assemble((f"{name:<14}", "dim"), one_line(value))


def _config(plan: dict[str, Any]) -> Iterator[Text]:
    section = ""
    for key, value in plan.items():
        name, _, last = one_line(str(key)).rpartition(".")
        if name != section:
            section = name
            yield Text(f"{section}:", ACCENT)
        yield Text.assemble((f"  {last}: ", "dim"), one_line(json.dumps(value, default=str, ensure_ascii=False)))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(one_line(text), max(12, width), break_long_words=True)


def _cut(lines: Iterable[Text], width: int, height: int | None) -> Text:
    kept = list(lines)[:height]
    for line in kept:
        line.truncate(max(1, width), overflow="ellipsis")
    return Text("\n", no_wrap=True).join(kept)
