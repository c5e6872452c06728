"""The console that a command prints its result on."""

from __future__ import annotations

from rich.console import Console


def open_console(terminal: Console | None = None, *, plain_width: int = 100) -> Console:
    """The console to print on; what is not a terminal gets lines of a fixed width and no colours.

    Args:
        terminal: Default: standard output.
        plain_width: Columns where there is no terminal.
    """
    console = terminal or Console(highlight=False)
    return console if console.is_terminal else Console(file=console.file, width=plain_width, highlight=False)
