"""What one pastes into a report of a bug: versions, devices, memory, number formats, and a few switches.

A fixed list. Nothing that names a person or a machine is on it: no host, no user, no path; of the variables of the
environment only those below, and only values that cannot be more than a setting.

Not covered: what a run was made with; that is in its plan.yaml (`machine.record`).
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
from pathlib import Path
from typing import Any

from luthier.errors.secrets import hide_in
from luthier.errors.terminal import wrapped
from luthier.errors.trace import brief
from luthier.machine import cores
from luthier.machine.gpu import read_gpus, read_system
from luthier.version import __version__

LIBRARIES = (
    "torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate", "safetensors", "tokenizers", "numpy",
    "tensorboard", "pydantic", "rich", "textual", "typer",
)  # fmt: skip
OPTIONAL = (
    "triton", "trl", "gguf", "fastapi", "uvicorn", "optuna", "matplotlib", "ray", "wandb", "mlflow", "trackio",
)  # fmt: skip
VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM", "WORLD_SIZE",
)  # fmt: skip
_SETTING = re.compile(r"[\w.,:+-]{0,60}")
_UNNAMED = "not installed"


def environment() -> dict[str, Any]:
    """Section -> name -> value, all of it plain. It never fails: what cannot be told says why."""
    sections = {
        "versions": {"luthier": __version__, "python": platform.python_version(), **_versions(LIBRARIES)},
        "optional": _versions(OPTIONAL),
        "system": _system(),
        "torch": _torch(),
        "GPUs": _gpus(),
        "variables": _variables(),
    }
    return dict(hide_in(sections))


def as_text(sections: dict[str, Any], width: int) -> str:
    """The same for people; each section a heading and lines."""
    lines: list[str] = []
    for heading, values in sections.items():
        lines += ["", heading] if lines else [heading]
        if heading == "optional":
            there = ", ".join(f"{name} {value}" for name, value in values.items() if value != _UNNAMED)
            lines.append(wrapped(there or "none is installed", "  ", "  ", width))
            continue
        lines += [wrapped(str(value), f"  {name:<20} ", " " * 23, width) for name, value in values.items()]
    return "\n".join(lines)


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name) or "unknown"
        except importlib.metadata.PackageNotFoundError:
            return _UNNAMED

    return {name: version(name) for name in names}


def _system() -> dict[str, str]:
    here = read_system(Path())
    used, total = here.ram_used_gib, here.ram_total_gib
    libc = " ".join(part for part in platform.libc_ver() if part)
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}" + (f", {libc}" if libc else ""),
        "cores": f"{cores()} of {os.cpu_count() or '?'} for this process",
        "memory": f"{total - used:.1f} of {total:.1f} GiB free",
        "swap": f"{here.swap_used_gib:.1f} of {here.swap_total_gib:.1f} GiB used",
        "disk of this folder": f"{here.disk_free_gib:.0f} of {here.disk_total_gib:.0f} GiB free",
    }


def _torch() -> dict[str, str]:
    """What torch makes of this machine; a torch that does not load is what a report is about."""
    try:
        import torch

        from luthier.machine.probe import cpu_name, probe

        facts = probe()
        cuda = (
            torch.version.cuda or "none: a build for CPUs" if torch.version.hip is None else f"ROCm {torch.version.hip}"
        )
        formats = ["float32", "bfloat16" if facts.supports_bfloat16 else "bfloat16 (emulated)"]
        formats += ["float16"] * (facts.device != "cpu")
        formats += [f"8-bit floats{' (computed plainly)' * (facts.device == 'cpu')}"] * facts.supports_fp8
        formats += ["NF4"] * facts.has_bitsandbytes
        capability = ".".join(map(str, torch.cuda.get_device_capability())) if facts.device == "cuda" else "–"
        return {
            "device": f"{facts.device}: {facts.device_name}",
            "compute capability": capability,
            "processor": cpu_name(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "AMX": "yes" if torch.cpu._is_amx_tile_supported() else "no",
            "threads": str(torch.get_num_threads()),
            "CUDA of the build": cuda,
            "cuDNN": str(_cudnn() or "none") if facts.device == "cuda" else "not used",
            "number formats": ", ".join(formats),
        }
    except Exception as error:  # a library that does not fit raises anything
        return {"trouble": f"it does not load: {_without_paths(brief(error))}"}


def _cudnn() -> int | None:
    from torch.backends import cudnn

    version: int | None = cudnn.version()  # type: ignore[no-untyped-call]
    return version


def _gpus() -> dict[str, str]:
    readings = read_gpus()
    told = {"driver": readings.driver} if readings.driver else {}
    for gpu in readings.gpus:
        free = gpu.memory_total_gib - gpu.memory_used_gib
        memory = f", {free:.1f} of {gpu.memory_total_gib:.1f} GiB free" if math.isfinite(free) else ""
        parts = ", partitioned (MIG)" * (gpu.mig is not None)
        told[str(gpu.index)] = f"{gpu.name}{memory}{parts}{', ' * bool(gpu.problem)}{gpu.problem}"
    return told or {"none": _without_paths(readings.problem) or "no GPU was found"}


def _variables() -> dict[str, str]:
    told = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    return {name: value if _SETTING.fullmatch(value) else "(set)" for name, value in told.items()}


def _without_paths(text: str) -> str:
    """A sentence without folders, which often hold the name of a person: of each path its last part stays."""
    return re.sub(r"(?<![\w.])(?:~|[A-Za-z]:)?[/\\](?:[^\s'\":;,()]*[/\\])?([^\s'\":;,()/\\]*)", r"\1", text)
