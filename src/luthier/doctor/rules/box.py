"""Memory, heat and disk of the box."""

from __future__ import annotations

import math

from luthier.doctor.evidence import change, finite, has_gpu, less_memory, percent, readings
from luthier.doctor.finding import Severity, Symptom, rule
from luthier.doctor.history import History
from luthier.doctor.statistics import median
from luthier.machine import GIB

NEAR = 0.94
"""Of the memory: what is left does not hold one longer row."""
HELD = 0.97
"""Of the memory held by this process and all others; torch keeps what it once had, so this alone is normal."""
WARM, HOT = 84.0, 92.0
"""°C: data-centre GPUs slow down from the high eighties on; below 80 all is well (the training guide)."""
OTHERS = "other programs hold most of it: end some of them"
COOL = "luthier gpu shows heat, fans and clocks; clear the fans, or lower the power limit: nvidia-smi -pl"
ENOUGH = 3
CHECKPOINTS_AHEAD = 1.1


@rule("warning", needs=readings("machines", "ram_total_gib", 1))
def memory_nearly_full(run: History) -> Symptom | None:
    """The memory is nearly full.

    A step that does not fit is done again in smaller passes, which costs time; on a CPU the system may end the process
    instead. Fewer tokens at once leave room and give the same result.

    Fires when the peak memory is above 94 % of the GPU's (on CPU: the memory in use above 94 % of the machine's),
    or when other programs hold what is left of it. Where they hold most of it, no line of the run's helps.
    """
    box = run.machines[-1]
    peak = run.recent[-1].memory_gib if run.recent else math.nan
    on_gpu = math.isfinite(box.gpu_memory_total_gib)
    total = box.gpu_memory_total_gib if on_gpu else box.ram_total_gib
    used = peak if on_gpu else box.ram_used_gib
    others = on_gpu and box.gpu_memory_used_gib > HELD * total and box.gpu_memory_used_gib - peak > 0.3 * total
    if not total > 0 or (not used > NEAR * total and not others):
        return None
    name = "the GPU's" if on_gpu else "this machine's"
    evidence = f"{used:.1f} of {name} {total:.1f} GiB ({percent(used / total)}) at step {run.step:,}"
    if others:
        used = box.gpu_memory_used_gib
        evidence += f"; {used:.1f} GiB with what other programs hold"
    if peak < used / 2:
        mine = "" if others else f"; {peak:.1f} GiB of them this run's"
        return Symptom(run.step, f"{evidence}{mine}", fix=OTHERS)
    return Symptom(run.step, evidence, less_memory(run))


@rule("warning", needs=readings("machines", "gpu_temperature_c", ENOUGH), applies=has_gpu)
def gpu_hot(run: History) -> Symptom | None:
    """The GPU is hot.

    A GPU that becomes too hot lowers its own clock, and training becomes slower; much hotter, it switches itself off.
    Look at the fans and at what else is in the case.

    Fires at 84 °C, and is critical from 92 °C on.
    """
    heat = median(finite(event.gpu_temperature_c for event in run.machines)[-ENOUGH:])
    if heat < WARM:
        return None
    severity: Severity = "critical" if heat >= HOT else "warning"
    return Symptom(run.step, f"{heat:.0f} °C at step {run.step:,}", severity=severity, confidence="high", fix=COOL)


@rule("critical", needs=readings("machines", "disk_free_gib", 1))
def disk_filling(run: History) -> Symptom | None:
    """The next checkpoints do not fit on the disk.

    A checkpoint that cannot be written is tried again until there is room. If the run ends meanwhile, what was trained
    since the last one is lost, and at its own end it cannot save what it has learned.

    Fires when the free space is less than what the checkpoints ahead need, at the size of the last one.
    """
    saved = run.checkpoint
    if saved is None or (run.finished and run.finished.status == "done") or 0 < run.total_steps <= saved.step:
        return None
    free, size = run.machines[-1].disk_free_gib, saved.bytes / GIB
    ahead = _checkpoints_ahead(run)
    if not free < ahead * size * CHECKPOINTS_AHEAD:
        return None
    evidence = f"{free:.1f} GiB free; {ahead} more checkpoint{'s' * (ahead > 1)} of {size:.2g} GiB will be on the disk"
    limit = run.get("checkpointing.save_total_limit")
    lines = (change(run, "checkpointing.save_total_limit", 2),) if limit is None or limit > 2 else ()
    fix = "make room there, or let training.output_dir lie on another disk"
    return Symptom(saved.step, evidence, lines, "high", fix=fix)


def _checkpoints_ahead(run: History) -> int:
    """Checkpoints that will lie on the disk besides those that do: a new one is written before an old one goes."""
    every, limit = run.get("plan.save_every"), run.get("checkpointing.save_total_limit")
    left = math.ceil((run.total_steps - run.step) / every) if every and run.total_steps > run.step else 1
    if limit is None:
        return left if "checkpointing.save_total_limit" in run.plan else 1
    room = max(0, int(limit) - run.saved)
    return max(1, min(left, room + 1))


RULES = (memory_nearly_full, gpu_hot, disk_filling)
