"""How to install what only some need."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]


def install(*extras: str) -> str:
    """The command that adds extras; where this is a checkout, to that, with its pinned versions."""
    wanted = f"[{','.join(extras)}]"
    constraints = CHECKOUT / "constraints.txt"
    if not constraints.is_file():
        return shlex.join(["pip", "install", f"luthier{wanted}"])
    words = [_short(Path(sys.executable)), "-m", "pip", "install", "-c", _short(constraints)]
    return shlex.join([*words, "-e", _short(CHECKOUT) + wanted])


def _short(path: Path) -> str:
    """As seen from here, where it lies below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
