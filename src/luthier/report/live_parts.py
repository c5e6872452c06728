"""The parts of the live page: each a function from a scene to HTML, empty where there is nothing to tell.

A number, its meaning and its long answer are the dashboard's, a curve and a finding are the report's.

Not covered: how the page looks, and when a part is drawn again (`live`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape
from itertools import pairwise, zip_longest

from rich.text import Text

from luthier.events.numbers import NUMBERS
from luthier.events.page import facts, lines, table, text
from luthier.events.types import Machine, RunFinished, Timing
from luthier.monitor.dashboard import panes
from luthier.monitor.dashboard.answers import SPENT
from luthier.monitor.dashboard.metrics import LEARNING, MACHINE, Metric
from luthier.monitor.dashboard.palette import BAD, GOOD, WARNING
from luthier.monitor.dashboard.scene import Scene, WatchedRun, has_gpu
from luthier.monitor.drawing import decimal
from luthier.monitor.gpu.words import WARM_C, fullness, in_percent, known_of, share_of
from luthier.monitor.state import RunState
from luthier.monitor.statistics import shares
from luthier.monitor.words import outcome
from luthier.report.curves import WIDTH, figures, pace
from luthier.report.sections import judged, milestones, notices, unknown, value_in_html
from luthier.report.several import overlaid, stroke

_CLASSES = {"dim": "unknown", GOOD: "good", BAD: "bad", WARNING: "warn"}
_FULL = {"red": "bad", "yellow": "warn"}
_MOST_NOTICES = 20


def _top(scene: Scene) -> str:
    """Who it is, how it is going, how far it is, what came out, and the worst finding."""
    run, state = scene.run, scene.run.state
    kind = state.finished.status if state.finished else "silent" if run.silent else "training"
    name = text(state.run or run.name)
    parts = [f'<h1>{name} <small>{text(panes.status(run))}</small></h1>\n<div class="summary {kind}">']
    if not state.updated:
        parts.append(unknown(f"{run.source}: this page fills itself when the run has something to say"))
    else:
        parts.append(_progress(run))
    parts += [_outcome(state, state.finished)] if state.finished else []
    if run.findings:
        worst, more = run.findings[0], len(run.findings) - 1
        wanted = "change" if worst.change else "do"
        parts.append(
            f'<p><strong class="{"unknown" if worst.severity == "info" else "bad"}">{worst.severity.upper()}</strong> '
            f'{text(worst.title)}{f", and {more} more" if more else ""}: <a href="#findings">what to {wanted}</a></p>'
        )
    return "\n".join([*parts, "</div>"])


def _outcome(state: RunState, finished: RunFinished) -> str:
    """Why it ended, and what it came to."""
    reason = f"<p>{text(finished.reason)}</p>\n" if finished.reason else ""
    told = "".join(
        f'<dt>{name}</dt><dd><b>{text(value)}</b> <span class="meaning">{text(meaning)}</span></dd>'
        for name, value, meaning in outcome(state, finished)
    )
    return f"{reason}<dl>{told}</dl>"


def _progress(run: WatchedRun) -> str:
    """Step, epoch and time in words, over a bar."""
    state = run.state
    words = [f"step <b>{state.step:,}</b>" + (f" of {state.total_steps:,}" if state.total_steps else "")]
    share = state.step / state.total_steps if state.total_steps else math.nan
    words += [f"<b>{share:.0%}</b>"] if math.isfinite(share) else []
    words += [_styled(part) for part in (panes.epoch(state), *panes.times(run)) if part]
    return f"<p>{' · '.join(words)}</p>\n{_bar(share) if math.isfinite(share) else ''}"


def _runs(scene: Scene) -> str:
    """Several runs: a row each, which leads to its page."""
    if len(scene.runs) == 1:
        return ""
    cells = []
    for number, run in enumerate(scene.runs):
        state, best = run.state, run.state.best
        link = f'<a href="?run={number + 1}">{text(run.name)}</a>'
        cells.append(
            (
                f"{stroke(number)} {f'<strong>{link}</strong>' if number == scene.selected else link}",
                text(panes.status(run)),
                f"{state.step:,}" + (f" of {state.total_steps:,}" if state.total_steps else ""),
                decimal(state.smoothed_loss) if state.smoothed_loss is not None else "",
                f"{decimal(best.eval_loss)} (step {best.step:,})" if best else "",
            )
        )
    heads = ("run", "status", "step", "training loss, smoothed", "lowest held-out loss")
    return f'<h2>{len(scene.runs)} runs</h2>\n<div class="wide">{table(heads, cells)}</div>'


def _together(scene: Scene) -> str:
    """The losses of several runs over each other."""
    several = len(scene.runs) > 1
    return overlaid([run.name for run in scene.runs], [run.state for run in scene.runs]) if several else ""


def _curves(scene: Scene) -> str:
    """Losses over the whole width, the others beside each other."""
    drawn = [*figures(scene.run.state, WIDTH // 2), *pace(scene.run.state, WIDTH // 2)]
    return f'<h2>The curve</h2>\n<div class="curves">{"".join(drawn)}</div>' if drawn else ""


def _numbers(scene: Scene) -> str:
    """Each number with its meaning in a line; the long answer is folded."""
    if not scene.run.state.logged:
        return ""
    drawn = "\n".join(_number(metric, scene.run) for metric in (*LEARNING, *MACHINE) if metric.shown(scene.run))
    return f'<h2>The numbers</h2>\n<div class="numbers">{drawn}</div>'


def _number(metric: Metric, run: WatchedRun) -> str:
    value, answer = metric.value(run), metric.told(run)
    longest = value[0] if isinstance(value, tuple) else value
    return (
        f'<details><summary><span class="unknown">{metric.label}</span><span>{_styled(longest)}</span>'
        f'<span class="meaning">{text(metric.meaning(run))}</span></summary>\n<p>{escape(answer.idea)}</p>\n'
        f"<p><b>{text(answer.here(run))}</b></p>\n<p>{escape(answer.care)}</p></details>"
    )


def _findings(scene: Scene) -> str:
    run = scene.run
    if not run.state.logged and not run.findings:
        return ""
    return f"<h2>What the doctor says</h2>\n{judged(run.findings, run.unsettled, run.state.step)}"


def _time(scene: Scene) -> str:
    """Where the seconds of a step go, and, of several ranks, those of each."""
    timings = scene.run.state.timings
    found = shares(timings)
    if not found:
        return ""
    bar = "".join(f'<div class="c{n}" style="width: {100 * share:.1f}%"></div>' for n, (_, share) in enumerate(found))
    named = "".join(
        f'<span><span class="swatch c{n}"></span> {name} <b>{share:.0%}</b></span>'
        for n, (name, share) in enumerate(found)
    )
    said = f'<p class="meaning">{escape(f"{SPENT.idea} {SPENT.care}")}</p>'
    return (
        f'<h2>Where the seconds of a step go</h2>\n<div class="bar">{bar}</div>\n<p class="parts">{named}</p>\n{said}'
        + (_by_rank(timings[-1]))
    )


def _by_rank(last: Timing) -> str:
    if not last.own_memory_gib:
        return ""
    cells = [
        (f"{rank}", f"{seconds:.3g} s" if seconds else "", f"{gib:.1f} GiB")
        for rank, (seconds, gib) in enumerate(zip_longest(last.own_seconds, last.own_memory_gib, fillvalue=0.0))
    ]
    return f'<div class="wide">{table(("rank", "its own seconds a step", "memory"), cells)}</div>'


def _machine(scene: Scene) -> str:
    """The GPU that trains, or the box where there is none, as far as the events tell."""
    machine = scene.run.machine
    drawn = "".join(_boxes(machine)) if machine else ""
    if not drawn:
        return ""
    whose = " <small>of this machine, for the log does not tell</small>" if machine is scene.run.local else ""
    return f'<h2>The machine{whose}</h2>\n<div class="boxes">{drawn}</div>'


def _boxes(machine: Machine) -> Iterator[str]:
    gpu, used, total = has_gpu(machine), machine.gpu_memory_used_gib, machine.gpu_memory_total_gib
    if gpu:
        share = share_of(used, total)
        yield _box(
            "GPU memory", "gpu_memory_used_gib", machine, known_of(used, total, ".1f", "GiB"), share, fullness(share)
        )
        share = machine.gpu_utilization / 100
        yield _box("GPU busy", "gpu_utilization", machine, in_percent(machine.gpu_utilization), share)
        degrees = machine.gpu_temperature_c
        color = "yellow" if degrees >= WARM_C else ""
        yield _box("GPU temperature", "gpu_temperature_c", machine, f"{degrees:.0f} °C", degrees / 100, color)
        yield _box("GPU power", "gpu_power_w", machine, f"{machine.gpu_power_w:.0f} W")
    busy = machine.cpu_utilization
    yield _box("processor", "cpu_utilization", machine, in_percent(busy), busy / 100)
    used, total = machine.ram_used_gib, machine.ram_total_gib
    share = share_of(used, total)
    yield _box("main memory", "ram_used_gib", machine, known_of(used, total, ".1f", "GiB"), share, fullness(share))
    yield _box("disk", "disk_free_gib", machine, f"{machine.disk_free_gib:.1f} GiB free")


def _box(name: str, number: str, machine: Machine, words: str, share: float = math.nan, color: str = "") -> str:
    """A name, a bar, the number and its meaning; empty where the number is not known."""
    if not math.isfinite(getattr(machine, number)):
        return ""
    told = NUMBERS[number]
    bar = _bar(share, _FULL.get(color, "c0")) if math.isfinite(share) else "<span></span>"
    said = escape(f"{told.idea} {told.care}".strip())
    return f'<div><span>{name}</span>{bar}<b>{text(words)}</b><span class="meaning">{said}</span></div>'


def _samples(scene: Scene) -> str:
    state = scene.run.state
    if not state.samples:
        return ""
    written = {(sample.prompt, sample.step): sample.text for sample in state.samples}
    return f"<h2>What it writes</h2>\n{milestones(written)}"


def _notices(scene: Scene) -> str:
    """What the run itself said, newest first."""
    said = scene.run.state.notices[::-1][:_MOST_NOTICES]
    if not said:
        return ""
    return f'<h2>What the run itself said</h2>\n<div class="wide words">{notices(said)}</div>'


def _about(scene: Scene) -> str:
    """Where it is read from, and its settings."""
    run = scene.run
    if not run.state.updated:
        return ""
    told = f"<h2>The run</h2>\n{facts(panes.facts(run))}"
    if not run.state.plan:
        return told
    cells = [(text(key), value_in_html(value)) for key, value in run.state.plan.items()]
    settings = f'<div class="wide words">{table(("key", "value"), cells)}</div>'
    return f"{told}\n<details><summary>Settings, as in plan.yaml</summary>\n{settings}</details>"


PARTS: dict[str, Callable[[Scene], str]] = {
    "runs": _runs,
    "top": _top,
    "together": _together,
    "curves": _curves,
    "numbers": _numbers,
    "findings": _findings,
    "time": _time,
    "machine": _machine,
    "samples": _samples,
    "notices": _notices,
    "about": _about,
}
"""In the order of the page."""
SLOW = {"curves", "together"}
"""What takes long to draw, of some thousand log lines."""


def _bar(share: float, kind: str = "c0") -> str:
    percent = 100 * min(1.0, max(0.0, share))
    full = f'<div class="{kind}" style="width: {percent:.1f}%"></div>'
    return f'<div class="bar" role="img" aria-label="{percent:.0f} %">{full}</div>'


def _styled(value: Text) -> str:
    """Text of the dashboard as HTML: what is bold there is bold here, and colours are those of the page."""
    ends = {0, len(value.plain), *(end for span in value.spans for end in (span.start, span.end))}
    parts = []
    for start, end in pairwise(sorted(ends)):
        covering = [value.style, *(span.style for span in value.spans if span.start <= start < span.end)]
        words = {word for style in covering for word in str(style).split()}
        kinds = " ".join(sorted(_CLASSES[word] for word in words & _CLASSES.keys()))
        piece = lines(value.plain[start:end]).replace("  ", " &ensp;")
        piece = f'<span class="{kinds}">{piece}</span>' if kinds else piece
        parts.append(f"<b>{piece}</b>" if "bold" in words and "not" not in words else piece)
    return "".join(parts)
