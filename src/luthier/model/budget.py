"""How many tokens fit in one micro-batch: a coarse count of the memory that a token's activations hold.

Per layer and token the backward pass needs the inputs of the norms, of attention and of the linear layers, of their
adapters and of the gate: about 16 vectors of hidden size and 6 of intermediate size. With gradient checkpointing only
each layer's input stays, and one layer at a time is whole. Not covered: kernels' workspace, fragmentation; hence the
reserve.
"""

from __future__ import annotations

from transformers import PretrainedConfig

from luthier.config.plan import MachineFacts, ModelFacts
from luthier.config.schema import Config

GIB = 2**30
RESERVE = 0.6
"""Share of the free memory that is planned with."""
MOST_TOKENS = {"cpu": 4096, "cuda": 32768, "mps": 8192}
"""Beyond this a larger pass is no faster, it only holds more memory."""
_HIDDEN_VECTORS, _INTERMEDIATE_VECTORS = 16, 6


def micro_batch_tokens(
    config: Config, model_config: PretrainedConfig, model: ModelFacts, machine: MachineFacts, longest_row: int
) -> int:
    """Tokens of a micro-batch that fit in free memory; never below the longest row, which must go through whole.

    Args:
        config: The user's config (dtype, quantization, checkpointing).
        model_config: config.json of the model.
        model: Counts of its parameters.
        machine: Free memory and device.
        longest_row: Tokens of the longest training row.
    """
    free = machine.free_memory_gib * GIB * RESERVE - weight_bytes(config, model, machine)
    fitting = int(free / max(1, token_bytes(config, model_config, model, machine)))
    return max(longest_row, min(fitting, MOST_TOKENS[machine.device]), 1)


def weight_bytes(config: Config, model: ModelFacts, machine: MachineFacts) -> int:
    """Bytes of weights, gradients and AdamW's two moments."""
    trainable = model.trainable_parameters or 0
    stored = 0.55 if config.quantization.load_in_4bit else _number_bytes(config, machine)
    frozen = 0 if config.training.finetuning_type == "full" else model.parameters
    return int(frozen * stored + trainable * 16)


def token_bytes(config: Config, model_config: PretrainedConfig, model: ModelFacts, machine: MachineFacts) -> int:
    """Bytes that one token's activations hold until the backward pass."""
    text_config = model_config.get_text_config()
    intermediate = getattr(text_config, "intermediate_size", None) or 4 * model.hidden_size
    layer = _HIDDEN_VECTORS * model.hidden_size + _INTERMEDIATE_VECTORS * int(intermediate)
    kept = layer + model.layers * model.hidden_size if config.training.gradient_checkpointing else layer * model.layers
    return kept * _number_bytes(config, machine)


def _number_bytes(config: Config, machine: MachineFacts) -> int:
    """Bytes of a number in the compute format."""
    if config.model.dtype == "auto":
        return 2 if machine.supports_bfloat16 else 4
    return 4 if config.model.dtype == "float32" else 2
