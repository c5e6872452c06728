"""The GPU monitor as lines: a pure function from readings and a size to something rich can print.

    a block for each GPU, or a row for each where they are many or the terminal is low
    the processes that hold their memory, as many as there is room for
    the machine: processor, memory, swap, disk
    what the colours of the temperature mean

A field that is not known is a dash. Names and commands are stripped of control characters and never read as markup.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise

from rich.box import ROUNDED
from rich.console import Group
from rich.panel import Panel as Box
from rich.text import Text

from luthier.events.printable import one_line
from luthier.machine.gpu import Gpu, Readings, System
from luthier.monitor.drawing import ACCENT, BLOCKS
from luthier.monitor.gpu.rows import gpu_rows, process_rows
from luthier.monitor.gpu.words import (
    WARM_C,
    drawn,
    fullness,
    known,
    known_of,
    link,
    percent,
    share_of,
    temperature,
    traffic,
    used_of,
)

NARROWEST, LOWEST = 40, 8

_MOST_BLOCKS = 4
_LABEL_WIDTH = 10
_LEAST_BAR, _LONGEST_BAR = 8, 40
_VRAM = ("weights, gradients, activations, and what allocators keep in reserve",)
_UTIL = (
    "share of time with a kernel at work; healthy training: 90–100 %",
    "healthy training: 90–100 %",
    "best: 90–100 %",
)
_UTIL_OF_PARTS = ("NVML gives none while the GPU is partitioned", "not given with MIG")
_SWAP = ("memory on disk: slow when it is in use",)


def render(readings: Readings, system: System, width: int, height: int, clock: str = "") -> Box:
    """The screen: at most `height` lines of exactly `width` cells.

    Args:
        readings: The GPUs.
        system: The machine.
        width: Cells of the terminal, at least `NARROWEST`.
        height: Lines of the terminal, at least `LOWEST`.
        clock: The time of the reading, as it is to be shown.
    """
    inner = max(width, NARROWEST) - 4
    room = max(height, LOWEST) - 2
    shown = lines(readings, system, inner, room)
    for line in shown:
        line.truncate(inner, overflow="ellipsis")
    title = Text.assemble(("Luthier", f"not dim bold {ACCENT}"), "  ", ("GPU monitor", "not dim bold"))
    driver = f"driver {one_line(readings.driver)}" if readings.driver else ""
    title.append("".join(f"  {words}" for words in (driver, clock) if words))
    title.truncate(inner - 2, overflow="ellipsis")
    return Box(
        Group(*shown[:room]),
        title=title,
        title_align="left",
        subtitle="Ctrl-C ends",
        subtitle_align="right",
        box=ROUNDED,
        border_style="dim",
        width=inner + 4,
        padding=(0, 1),
    )


def lines(readings: Readings, system: System, width: int, room: int | None = None, *, bars: bool = True) -> list[Text]:
    """The lines of the screen; of what comes from outside only the folder's path is cut to the width.

    Args:
        readings: The GPUs.
        system: The machine.
        width: Cells that bars, columns and explanations may take together.
        room: Lines there are; None: as many as it takes.
        bars: Draw bars; without, numbers alone, for an encoding that has no such characters.
    """
    bar_width = min(_LONGEST_BAR, max(_LEAST_BAR, (width - _LABEL_WIDTH) // 3)) if bars else 0
    machine = [Text(), *_machine(system, width, bar_width, bars=bars), *_legend(readings.gpus)]
    left = math.inf if room is None else room - len(machine)
    problem = _problem(readings.problem, width)
    gpus = [line for gpu in readings.gpus for line in _block(gpu, width, bar_width, explained=gpu is readings.gpus[0])]
    if len(readings.gpus) > _MOST_BLOCKS or len(problem) + len(gpus) > left:
        gpus = gpu_rows(readings.gpus, width, bars=bars)
    top = _first(problem + gpus, left)
    processes = process_rows(readings.gpus, left - len(top) - 1)
    return [*top, *([Text(), *processes] if processes else ()), *machine]


def _problem(text: str, width: int) -> list[Text]:
    return [
        Text.assemble(("  " if index else "! ", "yellow"), line) for index, line in enumerate(_wrapped(text, width))
    ]


def _wrapped(text: str, width: int) -> list[str]:
    """The text in lines that fit behind an indent of two."""
    return textwrap.wrap(one_line(text), max(NARROWEST, width) - 2)


def _first(block: list[Text], room: float) -> list[Text]:
    """The block, or as much of it as there is room for, with the rest counted."""
    if len(block) <= room:
        return block
    kept = max(0, int(room) - 1)
    return [*block[:kept], Text(f"… and {len(block) - kept} more lines: make the terminal higher", "yellow")]


def _line(label: str, value: Text, width: int, meanings: Sequence[str] = ()) -> Text:
    """A labelled value, and the longest of its meanings that still fits."""
    line = Text.assemble((f"{label:<{_LABEL_WIDTH}} ", "dim"), value)
    meaning = next((words for words in meanings if line.cell_len + 3 + len(words) <= width), "")
    return line.append(f"   {meaning}", "dim italic") if meaning else line


def _block(gpu: Gpu, width: int, bar_width: int, *, explained: bool) -> list[Text]:
    """A GPU in five lines, and one for each instance of it; one that does not answer with the reason alone."""
    name = Text(f"GPU {gpu.index}  {one_line(gpu.name) or 'name unknown'}", "bold")
    trouble = [Text(f"  {line}", "red") for line in _wrapped(gpu.problem, width)]
    if trouble and math.isnan(gpu.memory_total_gib):
        return [name, *trouble]
    vram = _VRAM if explained else ()
    util: Sequence[str] = _UTIL_OF_PARTS if gpu.mig is not None else _UTIL if explained else ()
    return [
        name,
        *trouble,
        _line("  VRAM", used_of(gpu.memory_used_gib, gpu.memory_total_gib, bar_width), width, vram),
        _line("  GPU util", percent(gpu.utilization_percent, bar_width), width, util),
        _line("  temp", _temperature_power_clocks(gpu), width),
        _line("  PCIe", _pcie(gpu).append("   ").append_text(_throttle(gpu)), width),
        *_instances(gpu, width, bar_width),
    ]


def _instances(gpu: Gpu, width: int, bar_width: int) -> list[Text]:
    if gpu.mig == ():
        return [_line("  MIG", Text("partitioned, but no instance can be seen from here", "yellow"), width)]
    block = []
    for instance in gpu.mig or ():
        value = used_of(instance.memory_used_gib, instance.memory_total_gib, bar_width)
        value.append(f"   {one_line(instance.name.removeprefix(gpu.name))}").append(
            f" {one_line(instance.problem)}", "red"
        )
        block.append(_line(f"  MIG {instance.index}", value, width))
    return block


def _temperature_power_clocks(gpu: Gpu) -> Text:
    value = temperature(gpu).append("   power ", "dim").append(known_of(gpu.power_w, gpu.power_limit_w, ".0f", "W"))
    value.append("   MHz: SM ", "dim").append(known(gpu.sm_clock_mhz, ",.0f"))
    return value.append(", memory ", "dim").append(known(gpu.memory_clock_mhz, ",.0f"))


def _pcie(gpu: Gpu) -> Text:
    value = Text(link(gpu))
    if gpu.pcie_width is not None and gpu.pcie_width_max is not None and gpu.pcie_width < gpu.pcie_width_max:
        value.append(f" of x{gpu.pcie_width_max}", "yellow")
    received, sent = traffic(gpu)
    return value.append(f"   in {received}, out {sent} MB/s")


def _throttle(gpu: Gpu) -> Text:
    if gpu.throttle:
        return Text.assemble(("clocks held by ", "dim"), (", ".join(gpu.throttle), "yellow"))
    return Text("clocks held by -" if gpu.throttle is None else "clocks free", "dim")


def _legend(gpus: Sequence[Gpu]) -> list[Text]:
    measured = [gpu for gpu in gpus if math.isfinite(gpu.temperature_c)]
    limits = {gpu.temperature_limit_c for gpu in measured if math.isfinite(gpu.temperature_limit_c)}
    own = f" (from {limits.pop():.0f} °C)" if len(limits) == 1 else ""
    states = (("green", "cool"), ("yellow", f"warm: from {WARM_C} °C"), ("red", f"hot: slows itself down{own}"))
    legend = Text("   ").join(Text.assemble(("● ", color), (words, "dim")) for color, words in states)
    return [legend] if measured else []


def _machine(system: System, width: int, bar_width: int, *, bars: bool) -> list[Text]:
    cores = len(system.cpu_percent)
    cpu = percent(system.cpu_mean_percent, bar_width).append(f"  {cores} core{'' if cores == 1 else 's'}  ")
    if bars:
        cpu.append(small_bars(system.cpu_percent, width - _LABEL_WIDTH - 1 - cpu.cell_len), ACCENT)
    block = [
        _line("CPU", cpu, width),
        _line("RAM", used_of(system.ram_used_gib, system.ram_total_gib, bar_width), width),
    ]
    if system.swap_total_gib > 0:
        block.append(_line("swap", used_of(system.swap_used_gib, system.swap_total_gib, bar_width), width, _SWAP))
    full = 1 - share_of(system.disk_free_gib, system.disk_total_gib)
    disk = drawn(full, bar_width, fullness(full)).append(known(system.disk_free_gib, ",.1f"), "bold")
    line = _line("disk", disk.append(f" of {known(system.disk_total_gib, ',.1f')} GiB free  "), width)
    return [*block, line.append(_end(one_line(system.disk_path), width - line.cell_len), "dim")]


def _end(path: str, width: int) -> str:
    """The path, or as much of its end as fits."""
    return path if len(path) <= width else f"...{path[len(path) - max(0, width - 3) :]}"[: max(0, width)]


def small_bars(percents: Sequence[float], width: int) -> str:
    """One block for each core, its height the load; where they do not fit, one for the mean of several."""
    width = min(width, len(percents))
    if width < 1:
        return ""
    edges = [column * len(percents) // width for column in range(width + 1)]
    means = [math.fsum(percents[start:end]) / (end - start) for start, end in pairwise(edges)]
    highest = len(BLOCKS) - 1
    return "".join(BLOCKS[min(highest, max(0, round(mean / 100 * highest)))] for mean in means)
