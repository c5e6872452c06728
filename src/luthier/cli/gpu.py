"""`luthier gpu`: what the GPUs and the machine are doing."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import typer

from luthier.cli.until_told import until_told

SHORTEST_SECONDS, LONGEST_SECONDS = 0.1, 86400.0


def gpu(
    interval: float = typer.Option(1.0, "--interval", metavar="SECONDS", help="From one reading to the next."),
    once: bool = typer.Option(False, "--once", help="Read once and end."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object a line instead of the screen."),
    csv: Path = typer.Option(None, "--csv", metavar="FILE", help="Also append a row for each GPU to this table."),
    output_dir: Path = typer.Option(Path("checkpoints"), "--output-dir", help="Show the disk that holds this folder."),
) -> None:
    """Watch the GPUs: memory, utilization, temperature, power, clocks, processes; and the machine. Ctrl-C ends.

    Example: luthier gpu --interval 5 --csv gpu.csv
    """
    if not SHORTEST_SECONDS <= interval <= LONGEST_SECONDS:
        range_ = f"from {SHORTEST_SECONDS} to {LONGEST_SECONDS:,.0f} seconds"
        raise typer.BadParameter(f"{interval} is not {range_}", param_hint="--interval")
    from rich.console import Console

    from luthier.monitor.gpu.record import Table
    from luthier.monitor.gpu.watch import json_lines, screen, watch

    with until_told(), contextlib.ExitStack() as stack:
        table = stack.enter_context(Table(csv)) if csv else None
        show = json_lines(sys.stdout) if as_json else stack.enter_context(screen(Console(), once=once))
        watch(output_dir, interval, show, table, once=once)
