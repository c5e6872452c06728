"""What the loop measures about itself: where the seconds of a step go, and how the box is doing.

    |-- data --|-- forward --|-- backward --|-- forward --|-- backward --|-- optimizer --|-- other --|
    start     lap           lap            lap           lap            lap             lap        stop

Where the device begins with the next step by itself, that one starts where this one ends, and has its data by then:

    --|-- data --|-- optimizer --|-- forward --|-- backward --|-- data --|-- optimizer --|-- forward --
     lap        lap          stop, start      lap            lap        lap          stop, start

A lap ends a phase. On CUDA, work is queued and done later, so a lap is an event on the device's own stream: it passes
when the work before it is done, and costs microseconds. The engine reads the loss and the norm of each step, which
waits for the device anyway; only then are the events read, so that measuring adds no wait of its own. On CPU a lap is
the clock; elsewhere (mps) it is the clock too, and work that is still queued counts for a later phase.

Not covered: single kernels or layers (torch.profiler).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from luthier.events.types import Machine, Timing
from luthier.machine.gpu import Gpu, read_gpus, read_system

Phase = Literal["data", "forward", "backward", "optimizer", "other", "ranks"]
PHASES: tuple[Phase, ...] = ("data", "forward", "backward", "optimizer", "other", "ranks")
Lap = Callable[[Phase], None]
READ_EVERY_SECONDS = 1.0
"""Reading the box takes about a millisecond; at most once a second it is a thousandth of the time at the very most."""

_T = TypeVar("_T")


class Stopwatch:
    """Adds up the seconds of each phase over the steps since the last `timing`.

    Args:
        device: What computes, as torch names its type.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._steps = 0
        self._marks: list[tuple[Phase, Any]] = []
        self._next_has_begun = False
        self._on_cuda = device == "cuda"

    def fetched(self, items: Iterable[_T]) -> Iterator[_T]:
        """The items; each starts a step, and the wait for it is the phase `data`.

        Where the device has begun with it in the step before (`next_has_begun`), it starts where that one ended.
        """
        iterator, self._next_has_begun = iter(items), False  # what was begun before other items is not of theirs
        while True:
            begun, self._next_has_begun = self._next_has_begun, False
            self._marks = self._marks[-1:] if begun else []
            if not begun:
                self.lap("other")  # where the step starts; the first mark ends no phase
            item = next(iterator, None)
            if item is None:
                return
            if not begun:
                self.lap("data")
            yield item

    def lap(self, phase: Phase) -> None:
        """The time since the last lap was `phase`."""
        mark: Any = time.perf_counter()
        if self._on_cuda:
            mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            mark.record()
        self._marks.append((phase, mark))

    def next_has_begun(self) -> None:
        """The device has begun with the next step already."""
        self._next_has_begun = True

    def stop(self) -> float:
        """Seconds of the step. Waits until the device has come to its end."""
        if self._on_cuda and self._marks:
            self._marks[-1][1].synchronize()
        total = 0.0
        for (_, before), (phase, after) in zip(self._marks, self._marks[1:], strict=False):
            seconds = before.elapsed_time(after) / 1000 if self._on_cuda else after - before
            self._seconds[phase] += seconds
            total += seconds
        self._steps += 1
        return total

    def timing(self, step: int) -> Timing:
        """Means per step since the last call."""
        steps = max(1, self._steps)
        means = {f"{phase}_seconds": seconds / steps for phase, seconds in self._seconds.items()}
        self._seconds, self._steps = dict.fromkeys(PHASES, 0.0), 0
        return Timing(step=step, own_seconds=[], own_memory_gib=[], **means)


class MachineReader:
    """Reads the box, but not more often than `READ_EVERY_SECONDS`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read_at = -math.inf
        read_system(folder)  # the load of the processor is told since the reading before

    def machine(self, step: int) -> Iterator[Machine]:
        """How the box is doing; nothing when it was read just now."""
        if time.monotonic() - self._read_at < READ_EVERY_SECONDS:
            return
        self._read_at = time.monotonic()
        gpu, system = _gpu(), read_system(self._folder)
        yield Machine(
            step,
            gpu_utilization=gpu.utilization_percent,
            gpu_memory_used_gib=gpu.memory_used_gib,
            gpu_memory_total_gib=gpu.memory_total_gib,
            gpu_temperature_c=gpu.temperature_c,
            gpu_power_w=gpu.power_w,
            cpu_utilization=system.cpu_mean_percent,
            ram_used_gib=system.ram_used_gib,
            ram_total_gib=system.ram_total_gib,
            disk_free_gib=system.disk_free_gib,
        )


def _gpu() -> Gpu:
    """The GPU that trains; all unknown when the CPU does, or when it cannot be told which one it is."""
    if not torch.cuda.is_available():
        return Gpu(-1)
    mine = str(getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", ""))
    gpus = read_gpus().gpus
    same = [gpu for gpu in gpus if mine and gpu.uuid.removeprefix("GPU-") == mine]
    return same[0] if same else gpus[0] if len(gpus) == 1 else Gpu(-1)
