r"""How a step's examples go through the model: the fastest way that memory holds.

Three things can be given up for memory, and each costs time:

    smaller passes        more of them, each with its fixed cost
    frozen weights        4 bits unpacked, 8-bit floats transposed at each use instead of once for the run (lean path)
    checkpointed layers   computed once more in the backward pass: half as much work again for such a layer, because a
                          frozen layer otherwise takes one product forward and one backward

`plan_passes` goes through all combinations and takes the cheapest that fits:

    cost = tokens (1 + checkpointed / (2 layers)) + passes (fixed + unpacking)                in tokens' time
    free memory             weights + head + T (layers' kept numbers + one layer's working set + holes) / `SHARE`
    training.memory_gib     the forecast, what tokens hold of it / `SHARE_OF_A_BUDGET`

The numbers are those of `luthier.model.memory`. Weights are known to the byte; what tokens hold is not, and others on
this machine want memory too: hence the shares. A `memory_gib` is for the run alone: it is filled further, and with all
that the forecast counts. Not covered: a machine that the weights nearly fill, where the share of what is left is too
little for the others.
"""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import replace

from transformers import PretrainedConfig

from luthier.config.plan import MachineFacts, ModelFacts, Passes, Plan
from luthier.config.schema import Config
from luthier.machine import GIB
from luthier.model.memory import OF_TOKENS, Footprint, footprint, forecast, holds_copies, room_gib

SHARE = 0.6
"""Of the memory that weights leave free, for what the tokens of a pass hold."""
SHARE_OF_A_BUDGET = 0.85
"""The same of `training.memory_gib`: forecasts were within 15 % of what was held, and a recorded pass is filled up by a
sixteenth at most."""
MOST_TOKENS = {"cpu": 2048, "cuda": 32768, "mps": 8192}
"""Beyond this a larger pass is no faster, it only holds more memory. On a CPU in 16 bits that is at twice as many: each
product there first lays its weights out anew for the processor's tiles."""
_PASS_COST, _UNPACKING_COST = 20, 180
"""Time of a pass beside that of its tokens, and of unpacking all weights in it (transposing is
taken for as dear), in tokens' time (see
docs/performance.md)."""


def plan_passes(
    plan: Plan, model_config: PretrainedConfig, process_gib: float = 0.0, tokens: int | None = None
) -> Passes:
    """The cheapest way through a step that fits into memory; a pass always holds the longest row, or pair.

    Args:
        plan: Resolved without passes, with model and rows.
        model_config: config.json of the model.
        process_gib: Resident set of this process; `memory_gib` has to hold it on a CPU.
        tokens: Tokens of a pass where they are decided already (a checkpoint's); what the config says comes first.
    """
    config, model, machine, data = plan.config, plan.model, plan.machine, plan.data
    assert model is not None and data is not None
    given = plan.max_tokens_per_micro_batch or tokens
    row = data.train_tokens // max(1, data.train_rows * (2 if data.pairs else 1))
    sizes = footprint(config, model_config, model, machine, lean=plan.lean, row_tokens=row)
    largest = MOST_TOKENS[machine.device] * (2 if machine.device == "cpu" and config.model.dtype != "float32" else 1)
    tried = range(max(given or 0, data.largest_example_tokens), max(given or largest, data.largest_example_tokens) + 1)
    step = config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps
    step_tokens = max(data.largest_example_tokens, step * data.train_tokens // max(1, data.train_rows))
    copies = plan.lean and holds_copies(config, machine)
    best: tuple[float, Passes] | None = None
    for unpack_once in (True, False) if copies else (False,):
        for layers in _checkpoint_choices(config, model, lean=plan.lean):
            passes = Passes(0, layers, unpack_once)
            if config.training.memory_gib == "auto":
                fitting = _in_free_memory(sizes, model.layers, passes, machine)
            else:
                fitting = _in_budget(plan, model_config, passes, tried, process_gib)
            if fitting < tried[0]:
                continue
            most = given or min(fitting, tried[-1])
            count = math.ceil(step_tokens / most)
            cost = step_tokens * (1 + layers / (2 * model.layers)) + count * _PASS_COST
            cost += count * _UNPACKING_COST * (copies and not unpack_once)
            if best is None or cost < best[0]:
                how = f"{most:,} tokens, in {_room(plan, process_gib)}"
                best = cost, replace(passes, micro_batch_tokens=most, how=how)
    if best is not None:
        return best[1]
    layers = _checkpoint_choices(config, model, lean=plan.lean)[-1]
    how = f"the longest row; no more fits into {_room(plan, process_gib)}"
    return Passes(given or data.largest_example_tokens, layers, False, how)


def _in_free_memory(sizes: Footprint, layers: int, passes: Passes, machine: MachineFacts) -> int:
    """The most tokens that fit beside others."""
    turned = sizes.unpacked if passes.unpack_once else sizes.unpacking
    free = machine.free_memory_gib * GIB - sizes.weights - sizes.head - turned
    return max(0, int(free * SHARE / sizes.token(layers, passes.checkpointed_layers)))


def _in_budget(plan: Plan, model_config: PretrainedConfig, passes: Passes, tried: range, process_gib: float) -> int:
    """The most tokens of those `tried` whose forecast fits into `training.memory_gib`; one less than any where none."""
    assert plan.data is not None
    longest = plan.data.longest_row_tokens

    def is_too_much(tokens: int) -> bool:
        memory = forecast(
            replace(plan, passes=passes),
            model_config,
            process_gib=process_gib,
            free_gib=plan.machine.free_memory_gib,
            tokens=tokens,
            passes=2,  # gradients of a second one lie beside those of the first
            row_tokens=longest,
        )
        predicted = sum(part.gib for part in memory.parts if part.name in OF_TOKENS)
        return memory.gib + predicted * (1 / SHARE_OF_A_BUDGET - 1) > memory.room_gib

    return tried[0] - 1 + bisect(tried, False, key=is_too_much)


def _room(plan: Plan, process_gib: float) -> str:
    """What the passes had to fit into."""
    asked, free = plan.config.training.memory_gib, plan.machine.free_memory_gib
    if asked == room_gib(plan, free, process_gib):
        return f"the {asked:g} GiB of training.memory_gib"
    return f"{free:.1f} GiB of free memory"


def _checkpoint_choices(config: Config, model: ModelFacts, *, lean: bool) -> tuple[int, ...]:
    """How many layers may be checkpointed: any number on the lean path, else all or none, where the model can."""
    wanted, layers = config.training.gradient_checkpointing, model.layers
    if not lean and not model.supports_gradient_checkpointing:
        return (0,)
    if wanted != "auto":
        return (layers if wanted else 0,)
    return tuple(range(layers + 1)) if lean else (0, layers)
