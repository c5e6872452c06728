"""CONFIG and KEY=VALUE on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

DEFAULT_CONFIG = Path("configs/training_config.yaml")

Request: Any = typer.Argument(
    None, metavar="[CONFIG] [KEY=VALUE]...", help=f"A YAML file (default: {DEFAULT_CONFIG}), and keys to change."
)


def parse(request: list[str] | None) -> tuple[Path, list[str]]:
    """Split the arguments into the config's path and the overrides.

    Without CONFIG: the default one below this folder, or else beside this installation's source.
    """
    words = list(request or [])
    if words and ("=" not in words[0] or Path(words[0]).is_file()):
        return Path(words[0]), words[1:]
    beside_source = Path(__file__).parents[3] / DEFAULT_CONFIG
    return (beside_source if beside_source.is_file() and not DEFAULT_CONFIG.is_file() else DEFAULT_CONFIG), words
