"""Imports, once for all forks, what a run would import. Nothing of torch runs: a fork would lose its threads."""

import importlib
import time

NAMES = (
    "bitsandbytes",
    "peft.tuners.lora.bnb",
    "peft.utils.transformers_weight_conversion",
    "torch.profiler._cupti_monitor",
    "transformers.models.llama.modeling_llama",
    "luthier.api",
    "luthier.cli.main",
    "tests.tiny",
)
_started = time.monotonic()
for _name in NAMES:
    importlib.import_module(_name)
SECONDS = time.monotonic() - _started
"""What a process needs for its imports, and a fork does not."""
