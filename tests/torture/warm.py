"""Imports, once for all forks, what a run would import. Nothing of torch runs: a fork would lose its threads."""

import importlib.util
import time

NAMES = [
    "bitsandbytes",
    "peft.tuners.lora.bnb",
    "peft.utils.transformers_weight_conversion",
    "transformers.models.llama.modeling_llama",
    "luthier.api",
    "luthier.cli.main",
    "tests.tiny",
    "pytest",
]
if importlib.util.find_spec("torch.profiler._cupti_monitor"):  # since torch 2.13
    NAMES.append("torch.profiler._cupti_monitor")
_started = time.monotonic()
for _name in NAMES:
    importlib.import_module(_name)
SECONDS = time.monotonic() - _started
"""What a process needs for its imports, and a fork does not."""
