"""What the dashboard costs the machine that trains: processor seconds a minute, and bytes a second to the terminal.

    python benchmarks/watch.py [--minutes 1] [--lines 5000] [--every 1.0] [--json FILE]

`luthier watch` runs at its defaults on a pseudo-terminal, on a log of 5,000 log lines (with their timing and machine
events). It is measured after its start: while the log stands still, and while it grows by one log line each second. A
share is that of all cores of this machine: what a training run that uses them all could lose at most.

Not covered: the memory bandwidth and caches that the two share; reading over a slow network file system.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import math
import os
import pty
import random
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from luthier.events.sinks.jsonl import JsonlSink
from luthier.events.types import Event, Log, Machine, RunStarted, Timing

SIZES = ((80, 24), (200, 60))
FIRST_SCREEN_BYTES = 2000
QUIET_SECONDS, LONGEST_START_SECONDS = 4.0, 120.0
STEPS_A_LINE = 10


def log_line(index: int, lines: int) -> list[Event]:
    """One log line and the events that come with it."""
    step, rng = STEPS_A_LINE * index, random.Random(index)
    loss = 2 * math.exp(-3 * index / lines) + 0.5 + rng.gauss(0, 0.05)
    seconds = 0.4 + rng.gauss(0, 0.02)
    return [
        Log(step, 3 * index / lines, loss, 0.8 + rng.random(), 2e-4, 30_000 * index, 3e4, 1.5e4, seconds, 6.8,
            (2 * lines - index) * STEPS_A_LINE * 0.4),
        Timing(step, 0.001, 0.15, 0.2, 0.04, 0.0),
        Machine(step, 97.0, 6.8, 44.4, 61.0, 280.0, 50.0, 10.0, 64.0, 100.0),
    ]  # fmt: skip


class Terminal:
    """`luthier watch` on a pseudo-terminal whose output is read and counted."""

    def __init__(self, path: Path, columns: int, rows: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(rows)}
        command = [sys.executable, "-m", "luthier", "watch", str(path)]
        self._process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self.bytes = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while part := os.read(self._master, 65536):
                self.bytes += len(part)

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def wait_for_the_first_screen(self) -> None:
        """Until it has drawn and is quiet."""
        begin, sent, since = time.monotonic(), 0, time.monotonic()
        while time.monotonic() - since < QUIET_SECONDS or self.bytes < FIRST_SCREEN_BYTES:
            if time.monotonic() - begin > LONGEST_START_SECONDS:
                raise TimeoutError("the dashboard has not drawn its first screen")
            if self.bytes != sent:
                sent, since = self.bytes, time.monotonic()
            time.sleep(0.1)

    def close(self) -> None:
        """End it as a reader does."""
        os.write(self._master, b"q")
        self._process.wait(timeout=60)


def measure(terminal: Terminal, seconds: float, grow: Any = None, every: float = 1.0) -> dict[str, float]:
    """Processor seconds and bytes over a while in which `grow` is called each `every` seconds."""
    cpu, sent, begin = terminal.cpu_seconds(), terminal.bytes, time.monotonic()
    while (left := begin + seconds - time.monotonic()) > 0:
        if grow is not None:
            grow()
        time.sleep(min(every, left))
    taken = time.monotonic() - begin
    used = (terminal.cpu_seconds() - cpu) / taken
    return {
        "cpu_seconds_per_minute": round(60 * used, 3),
        "share_of_all_cores": round(used / (os.cpu_count() or 1), 5),
        "bytes_per_second": round((terminal.bytes - sent) / taken, 1),
    }


def one_size(columns: int, rows: int, lines: int, seconds: float, every: float) -> dict[str, Any]:
    """Start on a long log, then idle, then a log that grows."""
    with tempfile.TemporaryDirectory() as folder:
        sink = JsonlSink(Path(folder) / "events.jsonl")
        sink.write(RunStarted("benchmark", 2 * lines * STEPS_A_LINE, 0, 6.0, {"training.max_grad_norm": 1.0}))
        index = 0

        def grow() -> None:
            nonlocal index
            index += 1
            for event in log_line(index, lines):
                sink.write(event)

        for _ in range(lines):
            grow()
        terminal = Terminal(Path(folder), columns, rows)
        terminal.wait_for_the_first_screen()
        result: dict[str, Any] = {"start_cpu_seconds": round(terminal.cpu_seconds(), 2)}
        result["idle"] = measure(terminal, seconds)
        result["growing"] = measure(terminal, seconds, grow, every)
        terminal.close()
        sink.close()
    return result


def main() -> None:
    """Measure both sizes and print the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--lines", type=int, default=5000)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two new log lines")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {"cores": os.cpu_count(), "lines": options.lines, "every_seconds": options.every}
    for columns, rows in SIZES:
        name = f"{columns}x{rows}"
        results[name] = one_size(columns, rows, options.lines, 60 * options.minutes, options.every)
        print(name, json.dumps(results[name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
