"""A file of 10 GB and a line of 1 GB within 1 GiB of memory.

The files are written and read in a child process that does what a run does with rows: read, check, tokenize, cache,
split, count. What is measured is the memory that the kernel cannot take back (anonymous pages, libraries included),
every 10 ms; pages of the mapped cache of tokens come on top where memory is free: a figure of their own (`resident`).

The count is the size of the file in MB. Not covered: Parquet, whose row groups are as large as their writer made them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.torture.outcome import Outcome

NAME = "huge"
DEFAULT = 10_000
FAST = 10
LIMIT_MIB = 1024
SHORTEST_LINE_MB = 40

_CHILD = """
import json, re, resource, sys, threading, time
from pathlib import Path
import torch
from luthier.errors import LuthierError
from tests.data.support import run
from tests.torture.huge import tokenizer

def kept_mib():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**10

def watch():
    while True:
        most[0] = max(most[0], kept_mib())
        time.sleep(0.01)

path, most = Path(sys.argv[1]), [0.0]
words = tokenizer()
threading.Thread(target=watch, daemon=True).start()
started = time.monotonic()
try:
    prepared = run(words, path, val_set_size=100)
    said = {"rows": len(prepared.train) + len(prepared.eval)}
except LuthierError as error:
    said = {"problems": [[p.code, p.where] for p in error.problems]}
resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
print(json.dumps({**said, "seconds": time.monotonic() - started, "kept_mib": most[0], "resident_mib": resident}))
"""


def why_not() -> str:
    """Where anonymous pages are not told apart."""
    return "" if sys.platform == "linux" else "memory is measured on Linux only"


def run(count: int, seed: int) -> Outcome:
    """A file of `count` MB, then one with a line of a tenth of that."""
    del seed
    started = time.monotonic()
    outcome = Outcome(NAME, 0)
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        needed_gb, free_gb = 3 * count / 1000 + 1, shutil.disk_usage(name).free / 1e9
        if free_gb < needed_gb:
            outcome.skipped = f"{needed_gb:.0f} GB of disk are needed, {free_gb:.0f} are free"
            return outcome
        file, line = Path(name, "rows.jsonl"), Path(name, "line.jsonl")
        rows = write_rows(file, count)
        said = prepared(file)
        judge(outcome, "file", said, said.get("rows") == rows)
        outcome.figures |= {"file_mb": count, "rows": rows, "mb_per_second": round(count / said.get("seconds", 1e9), 2)}
        shutil.rmtree(Path(name, "cache"), ignore_errors=True)
        file.unlink()
        megabytes = max(SHORTEST_LINE_MB, count // 10)
        write_line(line, megabytes)
        said = prepared(line)
        judge(outcome, "line", said, said.get("problems") == [["E-DATA-012", f"{line}:2"]])
        outcome.figures["line_mb"] = megabytes
    outcome.seconds = time.monotonic() - started
    return outcome


def judge(outcome: Outcome, what: str, said: dict[str, Any], right: bool) -> None:
    """Note the figures, and a failure where the child said something else than it should have, or took too much."""
    for name in ("kept_mib", "resident_mib", "seconds"):
        outcome.figures[f"{what}_{name}"] = round(said.get(name, -1), 1)
    if not right:
        outcome.failures.append((outcome.tried, f"{what}: {said}"))
    elif said["kept_mib"] > LIMIT_MIB:
        outcome.failures.append((outcome.tried, f"{what}: {said['kept_mib']:.0f} MiB, more than {LIMIT_MIB}"))
    outcome.tried += 1


def prepared(path: Path) -> dict[str, Any]:
    """Prepare a file in a fresh process; what that printed."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {"exit": done.returncode, "said": done.stderr}


def write_rows(path: Path, megabytes: int) -> int:
    """Rows of about 2 KB, no two the same; returns how many."""
    body = (
        "def total(values):\n    total = 0\n    for value in values:\n        total += value\n    return total\n\n" * 19
    )
    end, written, rows = json.dumps(body)[1:] + "}\n", 0, 0
    with path.open("wb") as stream:
        while written < megabytes * 1_000_000:
            lines = (f'{{"prompt": "Task {n}", "completion": "# {n} {end}' for n in range(rows, rows + 500))
            written += stream.write("".join(lines).encode())
            rows += 500
    return rows


def write_line(path: Path, megabytes: int) -> None:
    """A row, a line of that size, a row."""
    with path.open("wb") as stream:
        stream.write(b'{"instruction": "a", "output": "b"}\n{"instruction": "a", "output": "')
        for _ in range(megabytes):
            stream.write(b"x" * 1_000_000)
        stream.write(b'"}\n{"instruction": "c", "output": "d"}\n')


def tokenizer() -> Any:
    """A tokenizer that has learned some words, as real ones have."""
    from tests.tiny import build_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        return build_tokenizer(Path(folder), vocab_size=600)
