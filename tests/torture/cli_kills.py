"""SIGKILL at random moments of the real command line, from its first import to its last write.

Each trial kills twice. Rows are tokenized anew by each run, so that a kill may hit their cache as well.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from tests.torture.commands import as_process, write
from tests.torture.kills import tortured
from tests.torture.outcome import dice, workshop
from tests.torture.runs import NAMES, ended, ready

NAME = "cli_kills"
DEFAULT = 100
FAST = 1
KILLS = 2


def trial(number: int, seed: int) -> str:
    """Two kills."""
    name = NAMES[number % len(NAMES)]
    folder = workshop() / f"{NAME}-{number}"
    ready()
    from tests.torture.warm import SECONDS

    return tortured(name, dice(NAME, seed, number), folder, attempt, KILLS, 1.3 * SECONDS)


def attempt(values: dict[str, Any], log: Path, kill_after: float | None) -> int:
    """One attempt, as a process."""
    folder = Path(values["training"]["output_dir"])
    values["data"]["cache_dir"] = str(folder.with_name(f"{folder.name}-cache"))
    child = as_process(write(values, folder.with_name(f"{folder.name}.yaml")), log)
    if kill_after is not None:
        return ended(child, kill_after, signal.SIGKILL)
    return ended(child, 200, signal.SIGABRT)
