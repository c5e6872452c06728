r"""How a step's examples go through the model: the fastest way that memory holds.

Three things can be given up for memory, and each costs time:

    smaller passes        more of them, each with its fixed cost
    4-bit weights         unpacked at each use instead of once for the run (lean path)
    checkpointed layers   computed once more in the backward pass: half as much work again for such a layer, because a
                          frozen layer otherwise takes one product forward and one backward

`plan_passes` goes through all combinations and takes the cheapest that fits:

    cost = tokens (1 + checkpointed / (2 layers)) + passes (fixed + unpacking)                in tokens' time
    memory = weights + T (layers' kept numbers + one layer's working set) + head

Numbers that a token's layers keep: on the lean path they are known one by one (`luthier.model.lean.layer.Kept`);
through peft's layers, about 16 vectors of hidden size and 6 of intermediate size. Not covered: kernels' workspace,
fragmentation; hence the reserve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import PretrainedConfig

from luthier.config.lean import choose_lean, computes_in
from luthier.config.plan import DataFacts, MachineFacts, ModelFacts, Passes
from luthier.config.schema import Config
from luthier.model.bucketed import SHORT
from luthier.model.head import CHUNK_BYTES

GIB = 2**30
RESERVE = 0.6
"""Share of the free memory that is planned with."""
MOST_TOKENS = {"cpu": 2048, "cuda": 32768, "mps": 8192}
"""Beyond this a larger pass is no faster, it only holds more memory."""
_PASS_COST, _UNPACKING_COST = 20, 180
"""Time of a pass beside that of its tokens, and of unpacking all weights in it, in tokens' time (see
docs/performance.md)."""
_HIDDEN_VECTORS, _INTERMEDIATE_VECTORS = 16, 6


@dataclass(frozen=True)
class Footprint:
    """Bytes that training holds.

    Attributes:
        weights: Weights, gradients and the optimizer's moments.
        unpacked: The same 4-bit weights in the compute format, if they are kept so.
        kept: One layer's numbers of one token, until its backward pass.
        checkpoint: What a checkpointed layer keeps of them.
        working: What one token holds while a layer and the head are computed.
        fixed: Whatever the number of tokens.
    """

    weights: int
    unpacked: int
    kept: int
    checkpoint: int
    working: int
    fixed: int


def plan_passes(
    config: Config,
    model_config: PretrainedConfig,
    model: ModelFacts,
    machine: MachineFacts,
    data: DataFacts,
    tokens: int | None = None,
) -> Passes:
    """The cheapest way through a step that fits into free memory; a pass always holds the longest row.

    Args:
        config: The user's config.
        model_config: config.json of the model.
        model: Counts of its parameters.
        machine: Free memory and device.
        data: The rows' lengths.
        tokens: Tokens of a pass where they are decided already (a checkpoint's); what the config says comes first.
    """
    given = _given_tokens(config, data) or tokens
    lean = choose_lean(config, machine, model).taken
    sizes = footprint(config, model_config, model, machine, lean=lean)
    step = config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps
    step_tokens = max(data.longest_row_tokens, step * data.train_tokens // max(1, data.train_rows))
    four_bit = lean and config.quantization.load_in_4bit
    best: tuple[float, Passes] | None = None
    for unpack_once in (True, False) if four_bit else (False,):
        for layers in _checkpoint_choices(config, model.layers, lean=lean):
            fitting = _fitting_tokens(sizes, model.layers, layers, unpack_once, machine)
            most = given or min(fitting, max(MOST_TOKENS[machine.device], data.longest_row_tokens))
            if most < data.longest_row_tokens or most > fitting:
                continue
            passes = math.ceil(step_tokens / most)
            cost = step_tokens * (1 + layers / (2 * model.layers)) + passes * _PASS_COST
            cost += passes * _UNPACKING_COST * (four_bit and not unpack_once)
            if best is None or cost < best[0]:
                how = f"{most:,} tokens, in {machine.free_memory_gib:.1f} GiB of free memory"
                best = cost, Passes(most, layers, unpack_once, how)
    if best is not None:
        return best[1]
    layers = _checkpoint_choices(config, model.layers, lean=lean)[-1]
    how = f"the longest row; {machine.free_memory_gib:.1f} GiB are free"
    return Passes(given or data.longest_row_tokens, layers, False, how)


def _given_tokens(config: Config, data: DataFacts) -> int | None:
    """Tokens of a pass that the config decides: written, or so many rows with `auto: false`."""
    training = config.training
    if not training.auto:
        return training.per_device_train_batch_size * data.longest_row_tokens
    return None if training.max_tokens_per_micro_batch == "auto" else training.max_tokens_per_micro_batch


def footprint(
    config: Config, model_config: PretrainedConfig, model: ModelFacts, machine: MachineFacts, *, lean: bool
) -> Footprint:
    """Bytes of each part of training."""
    text = model_config.get_text_config()
    number = 4 if computes_in(config, machine) == "float32" else 2
    intermediate = int(getattr(text, "intermediate_size", None) or 4 * model.hidden_size)
    hidden = model.hidden_size
    trainable = model.trainable_parameters or 0
    full = config.training.finetuning_type == "full"
    packed = config.quantization.load_in_4bit
    ends = (1 if getattr(text, "tie_word_embeddings", False) else 2) * model.vocab_size * hidden
    body = max(0, model.parameters - ends)
    frozen = 0 if full else int(ends * number + body * (0.55 if packed else number))
    layer = _HIDDEN_VECTORS * hidden + _INTERMEDIATE_VECTORS * intermediate
    working = layer
    if lean:
        heads = int(text.num_attention_heads)
        size = int(getattr(text, "head_dim", None) or hidden // heads)
        attention = size * (heads + 2 * int(text.num_key_value_heads))
        layer = 2 * hidden + heads * size + attention + 2 * intermediate + 7 * config.lora.r
        # gate|up, its gradient and their product; attention's scores, in float32, of documents that are not long
        working = 6 * hidden + 6 * intermediate + 2 * attention + 4 * heads * SHORT * 4 // number
    return Footprint(
        weights=frozen + trainable * 16,
        unpacked=body * number,
        kept=layer * number,
        checkpoint=hidden * number,
        working=working * number + 4 * hidden * number,
        fixed=3 * CHUNK_BYTES.get(machine.device, CHUNK_BYTES["cuda"]),
    )


def _fitting_tokens(sizes: Footprint, layers: int, checkpointed: int, unpack_once: bool, machine: MachineFacts) -> int:
    free = machine.free_memory_gib * GIB * RESERVE - sizes.weights - sizes.fixed - sizes.unpacked * unpack_once
    token = (layers - checkpointed) * sizes.kept + checkpointed * sizes.checkpoint + sizes.working
    return max(0, int(free / token))


def _checkpoint_choices(config: Config, layers: int, *, lean: bool) -> tuple[int, ...]:
    """How many layers may be checkpointed: any number on the lean path, all or none through peft's layers."""
    wanted = config.training.gradient_checkpointing
    if wanted != "auto":
        return (layers if wanted else 0,)
    return tuple(range(layers + 1)) if lean else (0, layers)
