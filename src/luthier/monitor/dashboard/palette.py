"""Colours and marks. Every colour has a word, a mark or a place beside it: the screen can be read without any."""

from __future__ import annotations

from rich.text import Text

ACCENT, GOOD, WARNING, BAD, QUIET = "#5ec4e0", "#8fce6a", "#e5b567", "#f0717e", "#55626e"
RUNS = (ACCENT, "#e5b567", "#8fce6a", "#c792ea", "#f0717e", "#82aaff")
"""Of the runs, by turns."""
SEVERITY = {"info": ("i", ACCENT), "warning": ("!", WARNING), "critical": ("!!", f"bold {BAD}")}
STATUS = {"done": GOOD, "stopped": WARNING, "failed": BAD}


def strong(number: str, healthy: bool = True) -> Text:
    """The number that a line is about; what is appended to it is plain."""
    return Text.assemble((number, "bold" if healthy else f"bold {BAD}"))
