r"""How a step's examples go through the model: the fastest way that memory holds.

Three things can be given up for memory, and each costs time:

    smaller passes        more of them, each with its fixed cost
    frozen weights        4 bits unpacked, 8-bit floats transposed at each use instead of once for the run (lean path)
    checkpointed layers   computed once more in the backward pass: half as much work again for such a layer, because a
                          frozen layer otherwise takes one product forward and one backward

`plan_passes` goes through all combinations and takes the cheapest that fits:

    cost = tokens (1 + checkpointed / (2 layers)) + passes (fixed + unpacking)                in tokens' time
    memory = weights + head + T (layers' kept numbers + one layer's working set + holes) / `SHARE`

The numbers are those of `luthier.model.memory`. Weights are known to the byte; what tokens hold is not, and others on
this machine want memory too: hence the share. Not covered: a machine that the weights nearly fill, where the share of
what is left is too little for the others.
"""

from __future__ import annotations

import math

from transformers import PretrainedConfig

from luthier.config.lean import choose_lean, computes_in
from luthier.config.plan import DataFacts, MachineFacts, ModelFacts, Passes
from luthier.config.schema import Config
from luthier.machine import GIB
from luthier.model.memory import Footprint, footprint, holds_copies

SHARE = 0.6
"""Of the memory that weights leave free, for what the tokens of a pass hold."""
MOST_TOKENS = {"cpu": 2048, "cuda": 32768, "mps": 8192}
"""Beyond this a larger pass is no faster, it only holds more memory. On a CPU in 16 bits that is at twice as many: each
product there first lays its weights out anew for the processor's tiles."""
_PASS_COST, _UNPACKING_COST = 20, 180
"""Time of a pass beside that of its tokens, and of unpacking all weights in it (transposing is
taken for as dear), in tokens' time (see
docs/performance.md)."""


def plan_passes(
    config: Config,
    model_config: PretrainedConfig,
    model: ModelFacts,
    machine: MachineFacts,
    data: DataFacts,
    tokens: int | None = None,
) -> Passes:
    """The cheapest way through a step that fits into free memory; a pass always holds the longest row, or pair.

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
    row = data.train_tokens // max(1, data.train_rows * (2 if data.pairs else 1))
    sizes = footprint(config, model_config, model, machine, lean=lean, row_tokens=row)
    in_16_bits = computes_in(config, machine) != "float32"
    largest = MOST_TOKENS[machine.device] * (2 if machine.device == "cpu" and in_16_bits else 1)
    step = config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps
    step_tokens = max(data.largest_example_tokens, step * data.train_tokens // max(1, data.train_rows))
    copies = lean and holds_copies(config, machine)
    best: tuple[float, Passes] | None = None
    for unpack_once in (True, False) if copies else (False,):
        for layers in _checkpoint_choices(config, model, lean=lean):
            fitting = _fitting_tokens(sizes, model.layers, layers, unpack_once, machine)
            most = given or min(fitting, max(largest, data.largest_example_tokens))
            if most < data.largest_example_tokens or most > fitting:
                continue
            passes = math.ceil(step_tokens / most)
            cost = step_tokens * (1 + layers / (2 * model.layers)) + passes * _PASS_COST
            cost += passes * _UNPACKING_COST * (copies and not unpack_once)
            if best is None or cost < best[0]:
                how = f"{most:,} tokens, in {machine.free_memory_gib:.1f} GiB of free memory"
                best = cost, Passes(most, layers, unpack_once, how)
    if best is not None:
        return best[1]
    layers = _checkpoint_choices(config, model, lean=lean)[-1]
    how = f"the longest row; {machine.free_memory_gib:.1f} GiB are free"
    return Passes(given or data.largest_example_tokens, layers, False, how)


def _given_tokens(config: Config, data: DataFacts) -> int | None:
    """Tokens of a pass that the config decides: written, or so many rows with `auto: false`."""
    training = config.training
    if not training.auto:
        return training.per_device_train_batch_size * data.largest_example_tokens
    return None if training.max_tokens_per_micro_batch == "auto" else training.max_tokens_per_micro_batch


def _fitting_tokens(sizes: Footprint, layers: int, checkpointed: int, unpack_once: bool, machine: MachineFacts) -> int:
    free = machine.free_memory_gib * GIB - sizes.weights - sizes.head - sizes.unpacked * unpack_once
    return max(0, int(free * SHARE / sizes.token(layers, checkpointed)))


def _checkpoint_choices(config: Config, model: ModelFacts, *, lean: bool) -> tuple[int, ...]:
    """How many layers may be checkpointed: any number on the lean path, else all or none, where the model can."""
    wanted, layers = config.training.gradient_checkpointing, model.layers
    if not lean and not model.supports_gradient_checkpointing:
        return (0,)
    if wanted != "auto":
        return (layers if wanted else 0,)
    return tuple(range(layers + 1)) if lean else (0, layers)
