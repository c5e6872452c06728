"""Imports, once for all forks, what a run would import. Nothing of torch runs: a fork would lose its threads."""

import bitsandbytes  # noqa: F401
import peft.tuners.lora.bnb
import peft.utils.transformers_weight_conversion  # noqa: F401
import torch.profiler._cupti_monitor  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

from luthier import api  # noqa: F401
from luthier.cli import main  # noqa: F401
from tests import tiny  # noqa: F401
