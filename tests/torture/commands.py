"""The real command line on a run: as a process of its own, or, to start fast, as a fork that calls its `main`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.torture.runs import start

ROOT = Path(__file__).parents[2]


def write(values: dict[str, Any], path: Path) -> Path:
    """The config as a file (JSON is YAML, too)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def command(config: Path) -> list[str]:
    """The words after `luthier`: the same for the first start and for every later one."""
    return ["train", str(config), "--resume", "auto", "--plain"]


def as_process(config: Path, log: Path) -> int:
    """Start it as a user does; its process."""
    paths = os.pathsep.join([str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    with log.open("ab") as file:
        words = [sys.executable, "-m", "luthier", *command(config)]
        done = subprocess.Popen(
            words, stdout=file, stderr=file, cwd=log.parent, env={**os.environ, "PYTHONPATH": paths}
        )
    done.returncode = 0  # it is waited for by its number
    return done.pid


def as_fork(config: Path, log: Path) -> int:
    """Start it in a fork that has imported everything; its process."""

    def run() -> None:
        from luthier.cli.main import main

        main(command(config))

    return start(run, log)
