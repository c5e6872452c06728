"""Rows stay on disk: preparing many of them takes little memory beyond the libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, resource, sys
from pathlib import Path
import torch
from tests.data.support import alpaca, make_tokenizer, run

folder, count = Path(sys.argv[1]), int(sys.argv[2])
with (folder / "rows.jsonl").open("w") as stream:
    for number in range(count):
        stream.write(json.dumps({"prompt": f"Say {number}", "completion": f"It is {number}, " + "and " * 8}) + chr(10))
(folder / "few.jsonl").write_text((folder / "rows.jsonl").read_text()[:4000].rpartition(chr(10))[0])
tokenizer = make_tokenizer()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
run(tokenizer, folder / "few.jsonl")
before = peak()
rows = run(tokenizer, folder / "rows.jsonl").train
print(len(rows), rows.lengths.sum(), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in KiB on Linux only")
def test_memory_is_bounded(tmp_path: Path) -> None:
    count = 100_000
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(count)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows, tokens, grown_mib = done.stdout.split()
    assert int(rows) == count
    tokens_mib = 4 * int(tokens) / 2**20
    assert float(grown_mib) < 2 * tokens_mib + 75, f"grew by {grown_mib} MiB for {tokens_mib:.0f} MiB of tokens"
