"""A rank of a run that may hold so many MiB beyond what its process holds before anything is loaded.

    torchrun --nproc-per-node 2 -m tests.training.allowed CONFIG.json MIB

The limit is the system's (RLIMIT_DATA: memory of the process alone; files that are mapped to be read do not count).
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch

from luthier import api
from luthier.errors import LuthierError


def held_bytes() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")]
    return int(line.split()[1]) * 1024


def main() -> int:
    values, mib = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2])
    torch.set_num_threads(1)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (held_bytes() + mib * 2**20, hard))
    try:
        for _ in api.train(values):
            pass
    except LuthierError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
