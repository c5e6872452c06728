"""How an answer is written, as options that `chat` and `generate` share."""

from __future__ import annotations

from typing import Any

import typer

Temperature: Any = typer.Option(0.0, "--temperature", min=0.0, max=100.0, help="0: always the likeliest token.")
TopP: Any = typer.Option(1.0, "--top-p", min=0.0, max=1.0, help="Draw among the likeliest tokens of this probability.")
Seed: Any = typer.Option(None, "--seed", min=0, max=2**63 - 1, help="Repeats the draws of a temperature.")
MaxNewTokens: Any = typer.Option(256, "--max-new-tokens", min=1, help="Longest answer.")
Stop: Any = typer.Option([], "--stop", metavar="TEXT", help="Ends the answer, which does not hold it (repeatable).")
System: Any = typer.Option(
    None,
    "--system",
    metavar="TEXT",
    help="A system message, before the first question; '': none. Default: the training's.",
)
