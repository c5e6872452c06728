"""The palette as Textual takes it; apart, so that the words of the dashboard need no Textual."""

from __future__ import annotations

from textual.theme import Theme

from luthier.monitor.dashboard.palette import ACCENT, BAD, GOOD, WARNING

THEME = Theme(
    name="luthier",
    primary=ACCENT,
    secondary="#3d7f94",
    warning=WARNING,
    error=BAD,
    success=GOOD,
    accent=ACCENT,
    foreground="#d5dbe1",
    background="#11161b",
    surface="#11161b",
    panel="#1b232b",
    dark=True,
)
