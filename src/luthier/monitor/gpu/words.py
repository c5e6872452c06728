"""The numbers of the GPU monitor as text: a dash for what is not known, bars, the state of a temperature."""

from __future__ import annotations

import math

from rich.text import Text

from luthier.machine.gpu import Gpu
from luthier.machine.gpu.readings import HARDWARE_HEAT, HEAT
from luthier.monitor.drawing import ACCENT, bar

WARM_C = 80
"""Healthy training stays below it."""


def known(value: float, form: str) -> str:
    """The number in a format of Python; a dash when it is not known."""
    return format(value, form) if math.isfinite(value) else "-"


def known_of(used: float, total: float, form: str, unit: str) -> str:
    """`6.75 / 44.50 GiB`; what is not known is a dash, and so is the whole if nothing is."""
    if not math.isfinite(used) and not math.isfinite(total):
        return "-"
    return f"{known(used, form)} / {known(total, form)}{f' {unit}' if unit else ''}"


def share_of(used: float, total: float) -> float:
    """`used` of `total`; nan when one of them is not known."""
    return used / total if total > 0 else math.nan


def fullness(share: float) -> str:
    """The colour of something that is bad when it is full."""
    return "red" if share > 0.95 else "yellow" if share > 0.85 else ACCENT


def drawn(share: float, width: int, color: str = ACCENT) -> Text:
    """A bar with a space after it; nothing at no width."""
    full, empty = bar(share, width)
    return Text.assemble((full, color), (empty, "dim"), " " if width else "")


def used_of(used_gib: float, total_gib: float, width: int) -> Text:
    """A bar, GiB of GiB, and the share."""
    share = share_of(used_gib, total_gib)
    value = drawn(share, width, fullness(share)).append(known_of(used_gib, total_gib, ".2f", "GiB"))
    return value.append(f"  {in_percent(100 * share)}", "bold") if math.isfinite(share) else value


def percent(value: float, width: int) -> Text:
    """A bar and the number."""
    return drawn(value / 100, width).append(in_percent(value), "bold")


def in_percent(value: float) -> str:
    """`98 %`, or a dash."""
    return f"{value:.0f} %" if math.isfinite(value) else "-"


def heat(gpu: Gpu) -> tuple[str, str]:
    """The colour and the word of a GPU's temperature: hot is where it slows itself down."""
    if gpu.temperature_c >= gpu.temperature_limit_c or {HEAT, HARDWARE_HEAT} & set(gpu.throttle or ()):
        return "red", "hot"
    if math.isnan(gpu.temperature_c):
        return "dim", ""
    return ("yellow", "warm") if gpu.temperature_c >= WARM_C else ("green", "cool")


def temperature(gpu: Gpu) -> Text:
    """A coloured dot, the degrees, and in a word what the colour says."""
    color, word = heat(gpu)
    degrees = f"{gpu.temperature_c:.0f} °C" if math.isfinite(gpu.temperature_c) else "-"
    return Text.assemble(("● ", color), (degrees, "bold"), f" {word}" if word else "")


def link(gpu: Gpu) -> str:
    """The connection to the machine, for example `gen 4 x16`."""
    generation, width = ("-" if value is None else value for value in (gpu.pcie_generation, gpu.pcie_width))
    return f"gen {generation} x{width}"


def cut(text: str, width: int) -> str:
    """The text, or its beginning with an ellipsis."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def traffic(gpu: Gpu) -> tuple[str, str]:
    """What goes over PCIe in MB/s: into the GPU, and out of it."""
    return known(gpu.pcie_receive_mb_per_second, ",.0f"), known(gpu.pcie_transmit_mb_per_second, ",.0f")
