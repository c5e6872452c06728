"""What the GPU monitor writes down: a JSON object for each reading, or a row of a CSV table for each GPU.

What is not known is `null` in JSON and empty in CSV; times are epoch seconds.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from luthier.errors import MissingError, Problem
from luthier.machine.gpu import Gpu, Readings, System

_OF_GPU = (
    "name", "uuid", "memory_used_gib", "memory_total_gib", "utilization_percent", "temperature_c", "power_w",
    "power_limit_w", "sm_clock_mhz", "memory_clock_mhz", "pcie_generation", "pcie_width", "pcie_receive_mb_per_second",
    "pcie_transmit_mb_per_second", "throttle", "problem",
)  # fmt: skip
_OF_SYSTEM = (
    "cpu_mean_percent", "ram_used_gib", "ram_total_gib", "swap_used_gib", "swap_total_gib", "disk_free_gib",
)  # fmt: skip
COLUMNS = ("time", "gpu", *(f"gpu_{name}" for name in _OF_GPU), *_OF_SYSTEM)


@dataclass(frozen=True)
class Reading:
    """Everything that was read at one moment.

    Attributes:
        time: Epoch seconds.
    """

    time: float
    readings: Readings
    system: System


def as_json(reading: Reading) -> str:
    """One line: `{"time": …, "problem": …, "driver": …, "gpus": […], "system": {…}}`. ASCII only."""
    system = {**asdict(reading.system), "cpu_mean_percent": reading.system.cpu_mean_percent}
    record = {"time": round(reading.time, 3), **asdict(reading.readings), "system": system}
    return json.dumps(_plain(record), allow_nan=False)


def _plain(value: Any) -> Any:
    """As JSON can hold it, with no more digits than any device measures."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


class Table:
    """A CSV file to which readings are appended, each at once on disk. A context manager.

    Args:
        path: The file; made, or continued if it has our columns.

    Raises:
        MissingError: It cannot be written, or it is something else's (E-ENV-005).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        header = _line(COLUMNS)
        try:
            if path.is_fifo():
                raise _refused(path, "it is a pipe, and writing to one waits for a reader that may never come")
            first, whole = _ends(path, longest=4 * len(header))
            file = path.open("a", encoding="utf-8", newline="") if first in ("", header) else None
        except OSError as error:
            raise _refused(path, error.strerror or str(error)) from error
        if file is None:
            raise _refused(path, f"it begins with {first[:40]!r}, which is not the header of this table")
        self._file: TextIO = file
        # A row that a kill cut in two stays as it is, and the next one begins on a line of its own.
        self._write(header if not first else "" if whole else "\n")

    def write(self, reading: Reading) -> None:
        """Append a row for each GPU and each instance of one, or a row without a GPU where there is none.

        Raises:
            MissingError: The file cannot be written any more (E-ENV-005).
        """
        rows: list[tuple[str, Gpu]] = []
        for gpu in reading.readings.gpus:
            rows += [(f"{gpu.index}", gpu), *((f"{gpu.index}:{part.index}", part) for part in gpu.mig or ())]
        self._write("".join(_row(reading, label, gpu) for label, gpu in rows or [("", _nobody(reading))]))

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            self._close()
            raise _refused(self._path, error.strerror or str(error)) from error

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # what a full disk did not take was told when it happened
            self._file.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def _ends(path: Path, longest: int) -> tuple[str, bool]:
    """The first line (at most `longest` bytes of it; empty: there is none), and whether the last one is whole."""
    if not path.is_file() or not path.stat().st_size:
        return "", True
    with path.open("rb") as file:
        first = file.readline(longest).decode("utf-8", errors="replace")
        file.seek(-1, os.SEEK_END)
        return first, file.read() == b"\n"


def _nobody(reading: Reading) -> Gpu:
    """What stands for the GPUs where there is none: the reason."""
    return Gpu(0, problem=reading.readings.problem)


def _row(reading: Reading, label: str, gpu: Gpu) -> str:
    of_gpu = (getattr(gpu, name) for name in _OF_GPU)
    of_system = (getattr(reading.system, name) for name in _OF_SYSTEM)
    return _line([f"{reading.time:.3f}", label, *map(_cell, of_gpu), *map(_cell, of_system)])


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return value


def _line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _refused(path: Path, found: str) -> MissingError:
    fix = "give --csv the path of a new file, in a folder that exists and that you may write to"
    return MissingError(Problem("E-ENV-005", found, fix, str(path)))
