"""The GPU monitor's tables: a row for each GPU where there are many, and the processes that hold memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from luthier.events.printable import one_line
from luthier.machine.gpu import Gpu, Process
from luthier.monitor.drawing import ACCENT
from luthier.monitor.gpu.words import (
    cut,
    drawn,
    fullness,
    in_percent,
    known,
    known_of,
    link,
    share_of,
    temperature,
    traffic,
)

_LEAST_BAR, _LONGEST_BAR = 6, 24
_LONGEST_NAME = 22
_GAP = "  "


@dataclass(frozen=True)
class _Column:
    """What a column shows of each GPU. Those with the highest `rank` go first when there is no room; rank 0 stays."""

    title: str
    rank: int
    text: Callable[[Gpu], str | Text]
    share: Callable[[Gpu], float] | None = None
    """What a bar before the text shows; None: no bar."""
    color: Callable[[float], str] = lambda share: ACCENT

    def cell(self, gpu: Gpu, bar_width: int) -> Text:
        text = self.text(gpu)
        share = self.share(gpu) if self.share else 0.0
        cell = drawn(share, bar_width, self.color(share)) if self.share else Text()
        return cell.append_text(text if isinstance(text, Text) else Text(text))


_COLUMNS = (
    _Column("GPU", 0, lambda gpu: cut(one_line(gpu.name).removeprefix("NVIDIA ") or "unknown", _LONGEST_NAME)),
    _Column(
        "VRAM GiB",
        0,
        lambda gpu: known_of(gpu.memory_used_gib, gpu.memory_total_gib, ".1f", ""),
        lambda gpu: share_of(gpu.memory_used_gib, gpu.memory_total_gib),
        fullness,
    ),
    _Column("util", 0, lambda gpu: in_percent(gpu.utilization_percent), lambda gpu: gpu.utilization_percent / 100),
    _Column("temp", 1, temperature),
    _Column("power W", 2, lambda gpu: known_of(gpu.power_w, gpu.power_limit_w, ".0f", "")),
    _Column("SM MHz", 4, lambda gpu: known(gpu.sm_clock_mhz, ",.0f")),
    _Column("memory MHz", 6, lambda gpu: known(gpu.memory_clock_mhz, ",.0f")),
    _Column("PCIe", 5, link),
    _Column("MB/s in, out", 7, lambda gpu: ", ".join(traffic(gpu))),
    _Column("clocks held by", 3, lambda gpu: Text("-" if gpu.throttle is None else ", ".join(gpu.throttle), "yellow")),
)


def gpu_rows(gpus: Sequence[Gpu], width: int, *, bars: bool) -> list[Text]:
    """A row for each GPU and each instance of one, below a header; one that cannot be read says why instead."""
    rows = [row for gpu in gpus for row in ((f"{gpu.index}", gpu), *((f" {i.index}", i) for i in gpu.mig or ()))]
    columns = list(_COLUMNS)
    bar_width = _LEAST_BAR if bars else 0
    while (table := _Table(rows, columns, bar_width)).width > width and any(column.rank for column in columns):
        columns.remove(max(columns, key=lambda column: column.rank))
    if table.width > width:
        table = _Table(rows, columns, 0)
        return _Table(rows, columns, 0, max(1, table.widths[0] - max(0, table.width - width))).lines()
    if bars:
        spare = max(0, width - table.width) // sum(column.share is not None for column in columns)
        table = _Table(rows, columns, min(_LONGEST_BAR, bar_width + spare))
    return table.lines()


class _Table:
    """Columns as wide as their widest cell, the first one not wider than `most`."""

    def __init__(
        self, rows: Sequence[tuple[str, Gpu]], columns: Sequence[_Column], bar_width: int, most: int = 2 * _LONGEST_NAME
    ) -> None:
        self._gpus = [gpu for _, gpu in rows]
        self._titles = [column.title for column in columns]
        self._cells = [[column.cell(gpu, bar_width) for column in columns] for gpu in self._gpus]
        for cells, (label, _) in zip(self._cells, rows, strict=True):
            cells[0] = Text(f"{label} ").append_text(cells[0])
            cells[0].truncate(most, overflow="ellipsis")
        whole_columns = zip(self._titles, *self._cells, strict=True)
        self.widths = [max(len(title), *(cell.cell_len for cell in cells)) for title, *cells in whole_columns]
        self.width = sum(self.widths) + len(_GAP) * (len(self.widths) - 1)

    def lines(self) -> list[Text]:
        """The header and the rows."""
        header = _GAP.join(f"{title:<{width}}" for title, width in zip(self._titles, self.widths, strict=True))
        return [Text(header.rstrip(), "dim"), *map(self._line, self._gpus, self._cells)]

    def _line(self, gpu: Gpu, cells: Sequence[Text]) -> Text:
        padded = [cell + Text(" " * (width - cell.cell_len)) for cell, width in zip(cells, self.widths, strict=True)]
        if gpu.problem:
            return Text(_GAP).join((padded[0], Text(one_line(gpu.problem), "red")))
        line = Text(_GAP).join(padded)
        line.rstrip()
        return line


def process_rows(gpus: Sequence[Gpu], room: float) -> list[Text]:
    """Who holds the memory, below a header: the greatest first, at most `room` lines, and how many more there are."""
    held: dict[tuple[int, int], Process] = {}
    for gpu in gpus:
        for part in (gpu, *(gpu.mig or ())):
            for process in part.processes or ():
                held.setdefault((gpu.index, process.pid), process)
    if not held or room < 2:
        return []
    ordered = sorted(held.items(), key=lambda item: -item[1].memory_gib if item[1].memory_gib >= 0 else 0.0)
    shown = ordered if len(ordered) < room else ordered[: int(room) - 2]
    table = [Text(f"  {'pid':>8}  {'user':<12}  {'GPU':>3}  {'GiB':>7}  command", "dim")]
    for (index, pid), process in shown:
        user, command = (one_line(words) or "-" for words in (process.user, process.command))
        memory = known(process.memory_gib, ".2f")
        table.append(Text(f"  {pid:>8}  {cut(user, 12):<12}  {index:>3}  {memory:>7}  {command}"))
    if len(shown) < len(ordered):
        table.append(Text(f"  {'':>8}  and {len(ordered) - len(shown)} more", "dim"))
    return table
