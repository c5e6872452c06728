"""Running the command line: in this process, or as the real thing."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from luthier.cli.main import main

ROOT = Path(__file__).parents[2]
LUTHIER = [sys.executable, "-m", "luthier"]


@dataclass(frozen=True)
class Result:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


def write_config(path: Path, model: Path, rows: Path, output_dir: Path, **training: Any) -> Path:
    """A small config: float32, 64 rows, checkpoints every 4 steps, no evaluation."""
    config = {
        "model": {"model_name_or_path": str(model), "dtype": "float32"},
        "data": {"datasets": [{"path": str(rows)}], "val_set_size": 0, "cache_dir": str(path.parent / "cache")},
        "training": {"output_dir": str(output_dir), "learning_rate": 2e-3, **training},
        "checkpointing": {"save_steps": 4},
        "logging": {"logging_steps": 1, "histogram_steps": 0},
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def environment(**changes: str) -> dict[str, str]:
    """The environment of a user: nothing that only tests set, but offline and on one core."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100", **changes}


def process(*arguments: Any, cwd: Path, command: list[str] = LUTHIER, **changes: str) -> Result:
    """Run the command as its own process."""
    done = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=200,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def start(*arguments: Any, cwd: Path, command: list[str] = LUTHIER) -> subprocess.Popen[str]:
    """Start the command as its own process, to be read line by line."""
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_here(capsys: Any, *arguments: Any) -> Result:
    """Run the command in this process."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)
