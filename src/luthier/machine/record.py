"""What a run was made with: versions, hardware, commit; a fixed list, nothing else of the environment."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from typing import Any

import torch

from luthier.machine.probe import best_device, cpu_name
from luthier.version import __version__

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "safetensors", "tokenizers", "numpy")


def surroundings() -> dict[str, Any]:
    """Versions of the libraries, the machine and the git commit of the folder we run in."""
    device = best_device()
    return {
        "luthier": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _git_commit() -> str:
    """The commit that is checked out here, with `+changes` when files differ; empty outside a repository."""
    try:
        describe = ["git", "describe", "--always", "--abbrev=12", "--dirty=+changes"]
        return subprocess.run(describe, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
