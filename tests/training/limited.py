"""Runs in a process whose memory is limited for real once the model is loaded.

    python -m tests.training.limited CASES.json       [[config, MiB of address space beyond what is mapped then], ...]

Prints one JSON line a notice and a log line, and an empty one after each run.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from luthier import api
from luthier.events.types import Architecture, Log, Notice


def mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def train(values: dict[str, Any], mib: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    for event in api.train(values):
        if isinstance(event, Architecture):
            resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes() + mib * 2**20, hard))
        if isinstance(event, Notice | Log):
            print(json.dumps({"kind": event.kind, **vars(event)}))
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    print()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in json.loads(Path(sys.argv[1]).read_text()):
        train(*case)
