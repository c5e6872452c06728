"""Whether the device is kept busy, and by what it is held up.

`gpu_utilization` says in how much of the last moments the device computed anything; `Timing` says where a step's
seconds went. The guide's line is 50 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.doctor.evidence import all_of, change, finite, has_gpu, known, logs, percent, readings
from luthier.doctor.finding import Change, Symptom, rule
from luthier.doctor.history import History
from luthier.doctor.rules.box import COOL
from luthier.doctor.statistics import median
from luthier.events.types import Log, Timing

IDLE = 50.0
"""Percent of the time."""
ENOUGH = 5
"""Readings, so that one look at a bad moment says nothing."""
WAITING = 0.2
"""A fifth of the time is worth a line of YAML."""
NOTICEABLE = 1e-3
"""Seconds a step: below, waiting for a thread to wake up looks like waiting for data."""
MEMORY_FREE = 0.5
CHECKPOINTING_FREE = 0.4
"""With gradient checkpointing a step needs a third to a half of the memory that it needs without, or less."""
SMALL_PASS = 4096
"""Tokens in a pass: fewer seldom fill a large GPU."""
CPU_BUSY = 90.0
SLOWER = 0.3
SLOW_LINES = 8
SLOW_SECONDS = 60.0
"""The slow stretch must last: other programs come and go."""
HOT, HOT_TITLE = 80.0, "The GPU is hot and slows down"
SEE_GPU = "luthier gpu, on that machine, shows what else runs there, its temperature and its clocks"
STRAGGLES = 1.25


def _total(timing: Timing) -> float:
    return (
        timing.data_seconds
        + timing.forward_seconds
        + timing.backward_seconds
        + timing.optimizer_seconds
        + timing.other_seconds
        + timing.ranks_seconds
    )


def _waiting(timings: Sequence[Timing]) -> tuple[float, float]:
    """Share of a step that is spent waiting for data, and its seconds."""
    shares = [timing.data_seconds / max(_total(timing), 1e-9) for timing in timings]
    return median(shares), median([timing.data_seconds for timing in timings])


def _more_workers(run: History) -> Change:
    workers = run.get("data.dataloader_num_workers")
    return change(run, "data.dataloader_num_workers", max(2, 2 * workers) if isinstance(workers, int) else 4)


@rule("warning", needs=readings("timings", "data_seconds", ENOUGH), replaces=("gpu-idle",))
def data_bound(run: History) -> Symptom | None:
    """Training waits for data.

    The device has finished a step and the next rows are not ready: it stands still while other threads read and pack
    them. More threads, or rows that lie nearer, make every step shorter by that wait.

    Fires when a fifth or more of a step is spent waiting for the next rows.
    """
    share, seconds = _waiting(run.timings[-2 * ENOUGH :])
    if not share > WAITING or seconds < NOTICEABLE:
        return None
    total = median([_total(timing) for timing in run.timings[-2 * ENOUGH :]])
    evidence = f"{seconds:.3g} of {total:.3g} s a step ({percent(share)}) pass waiting for the next rows"
    return Symptom(run.step, evidence, (_more_workers(run),), "high")


@rule("warning", needs=readings("machines", "gpu_utilization", ENOUGH), applies=has_gpu)
def gpu_idle(run: History) -> Symptom | None:
    """The GPU is idle half of the time.

    A GPU costs the same whether it computes or waits. Below 50 % something else sets the pace.

    Fires when the median of the latest readings of the GPU is below 50 %; the seconds of a step, the plan and the
    processor tell the cause.
    """
    seen = run.machines[-2 * ENOUGH :]
    busy = finite(event.gpu_utilization for event in run.machines)[-2 * ENOUGH :]
    used = median(busy)
    if used >= IDLE:
        return None
    evidence = f"GPU {used:.0f} % busy (median of {len(busy)} readings up to step {run.step:,})"
    share = _waiting(run.timings[-2 * ENOUGH :])[0] if run.timings else 0.0
    if share > WAITING:
        waits = f"{evidence}; {percent(share)} of a step is waiting for rows"
        return Symptom(run.step, waits, (_more_workers(run),), "high")
    tokens = run.get("plan.max_tokens_per_micro_batch") or 0
    longer = run.get("training.auto") is not False and tokens < _step_tokens(run)
    batch = run.get("training.per_device_train_batch_size") or 0
    free = _memory_used(run) < MEMORY_FREE
    if free and longer and 0 < tokens < SMALL_PASS:
        line = change(run, "training.max_tokens_per_micro_batch", 4 * tokens, tokens)
        advice = "Passes of so few tokens are too short to fill it, and there is memory for longer ones."
        return Symptom(run.step, f"{evidence}; {tokens:,} tokens a pass", (line,), advice=advice)
    cpu = finite(event.cpu_utilization for event in seen)
    if cpu and median(cpu) > CPU_BUSY:
        advice = "The processor is at its limit: other programs take it, or too few cores feed the GPU."
        fix = "luthier gpu and top show what else runs: end it, or take a machine with more cores"
        return Symptom(run.step, f"{evidence}; processor {median(cpu):.0f} % busy", advice=advice, fix=fix)
    if not free:
        fix = f"{SEE_GPU}; `spent on` in luthier watch names the slow part"
        return Symptom(run.step, evidence, confidence="low", fix=fix)
    line = change(run, "training.per_device_train_batch_size", 2 * batch if batch else "twice as many")
    advice = "More rows at once give it longer pieces of work. They make steps larger and fewer: look at the loss."
    return Symptom(run.step, evidence, (line,), "low", advice=advice)


def _step_tokens(run: History) -> float:
    """Tokens of a step, of one rank: a pass holds no more."""
    last = run.recent[-1:]
    return sum(line.num_tokens / max(1, line.step) for line in last) / (run.get("machine.world_size") or 1)


def _memory_used(run: History) -> float:
    """Peak share of the memory that the run may hold: the device's, or `memory_gib`; 1 where it is not known."""
    totals = finite(event.gpu_memory_total_gib for event in run.machines[-1:])
    total = totals[0] if totals else run.get("machine.memory_gib", 0.0)
    if isinstance(asked := run.get("training.memory_gib"), int | float):
        total = min(total, asked)
    peaks = finite(line.memory_gib for line in run.recent[-1:])
    return peaks[0] / total if peaks and total else 1.0


@rule("info", needs=all_of(logs(ENOUGH, steps=10), known("machine.device")), applies=has_gpu)
def checkpointing_needless(run: History) -> Symptom | None:
    """Gradient checkpointing is not needed.

    It forgets what the forward pass computed and computes it again in the backward pass: less memory for one more
    forward pass, a third to a half more time. There is memory enough to keep it.

    Fires when gradient checkpointing is on and the peak memory is below 40 % of the device's, or of
    `training.memory_gib`.
    """
    used = _memory_used(run)
    if not run.get("training.gradient_checkpointing") or used > CHECKPOINTING_FREE:
        return None
    line = change(run, "training.gradient_checkpointing", False)
    return Symptom(run.step, f"peak memory is {percent(used)} of what there is", (line,))


@rule(
    "warning",
    needs=all_of(logs(3 * SLOW_LINES), known("machine.device")),
    applies=lambda run: run.get("machine.device") != "cpu",  # there other programs set the pace
)
def slowing_down(run: History) -> Symptom | None:
    """Training has become slower.

    The same work takes longer than it did: another program on this box, a device that is too hot and slows itself
    down, or rows that come more slowly.

    Fires when tokens a second have been a third lower than before for a minute or longer; not on a CPU, which other
    programs share, and since a resume, which may be on other devices.
    """
    since = run.resumed.step if run.resumed else 0
    latest = [line for line in run.recent[-SLOW_LINES:] if line.tokens_per_second > 0]
    earlier = [line for line in run.whole if line.step > since][1:-SLOW_LINES]
    earlier = [line for line in earlier if line.tokens_per_second > 0]
    if len(latest) < SLOW_LINES or len(earlier) < SLOW_LINES:
        return None
    now, usual = _speed(latest), _speed(earlier)
    if now > usual * (1 - SLOWER) or max(map(_one_speed, latest)) > usual * (1 - SLOWER / 2):
        return None
    if not _duration(latest) >= SLOW_SECONDS:
        return None
    evidence = f"{now:,.0f} tokens a second since step {latest[0].step:,}, {usual:,.0f} before"
    heat = finite(event.gpu_temperature_c for event in run.machines[-ENOUGH:])
    if heat and median(heat) >= HOT:
        return Symptom(run.step, f"{evidence}; GPU at {median(heat):.0f} °C", title=HOT_TITLE, fix=COOL)
    return Symptom(run.step, evidence, fix=SEE_GPU)


@rule(
    "warning",
    needs=lambda run: "" if any(t.own_seconds for t in run.timings) else "no rank has seconds of its own",
    applies=lambda run: run.get("machine.world_size", 2) > 1,
)
def straggler(run: History) -> Symptom | None:
    """One rank holds the others up.

    A step is over when the slowest rank has its gradients; the others wait for it. Rows are dealt by tokens, so all
    have about the same to do: a rank that takes longer has a slower or hotter device, or shares it.

    Fires when one rank has taken a quarter longer than the others' median in each of the latest readings.
    """
    latest = [timing.own_seconds for timing in run.timings[-ENOUGH:] if len(timing.own_seconds) > 1]
    slowest = {seconds.index(max(seconds)) for seconds in latest}
    if len(latest) < ENOUGH or len(slowest) > 1:
        return None
    (rank,) = slowest
    others = [median([*seconds[:rank], *seconds[rank + 1 :]]) for seconds in latest]
    own = [seconds[rank] for seconds in latest]
    if not all(mine > STRAGGLES * theirs for mine, theirs in zip(own, others, strict=True)):
        return None
    evidence = f"rank {rank} takes {median(own):.3g} s a step, the others {median(others):.3g} s"
    return Symptom(run.step, evidence, confidence="high", fix=SEE_GPU)


def _duration(lines: Sequence[Log]) -> float:
    """Seconds from the first to the last of them."""
    first, last = lines[0], lines[-1]
    if math.isfinite(last.step_seconds):
        return last.step_seconds * (last.step - first.step)
    return (last.num_tokens - first.num_tokens) / _speed(lines)


def _one_speed(line: Log) -> float:
    return line.tokens_per_second


def _speed(lines: Sequence[Log]) -> float:
    return median([line.tokens_per_second for line in lines])


RULES = (data_bound, gpu_idle, checkpointing_needless, slowing_down, straggler)
