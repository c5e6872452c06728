"""What a run does when memory runs out in a pass: the same step, evaluation or rehearsal again, holding less.

    0  recorded passes         CUDA graphs, which hold what a pass holds
    1  smaller passes          the same examples in the same order, more passes of fewer tokens; down to one row each
    2  frozen weights          4 bits unpacked, 8-bit floats transposed at each use instead of kept (lean path)
    3  checkpointed layers     half of them, then all: computed again in the backward pass

The gradient of a step is a sum over its tokens, so how they are cut changes rounding at most (dropout draws other
random numbers). What was lowered stays so, is written into checkpoints, and is said with the YAML line that makes it
permanent.

Not covered: the optimizer's own update, whose moments come with the first step (`luthier.training.rehearsal` tries it
before); sharded models, whose ranks are in the middle of a pass that cannot be broken off; what the system's own killer
ends without asking (a container's limit on a CPU): that costs the steps since the last checkpoint; and `auto: false`,
which runs the YAML as it stands or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from luthier.config.plan import Passes, Plan
from luthier.data.collate import MicroBatch
from luthier.events.types import Notice
from luthier.machine.ranks import most_of_ranks, on_any_rank
from luthier.model.recording import give_up_recordings


def give_up(
    model: nn.Module, plan: Plan, batches: Sequence[MicroBatch], step: int, what: str = "step"
) -> tuple[Passes | None, Notice] | None:
    """The next thing to give up, and what is said of it; None when there is nothing left.

    Args:
        model: The model; its recorded passes are freed here.
        plan: The plan as it is.
        batches: The micro-batches that did not fit.
        step: The number of the step.
        what: What is tried again, before that number.

    Returns:
        Passes that hold less, or None for the same ones without recordings.
    """
    if said := _without_recordings(model, plan, step, what):
        return None, said
    return _lowered(plan, batches, step, what)


def _without_recordings(model: nn.Module, plan: Plan, step: int, what: str) -> Notice | None:
    """Recorded passes hold as much memory as a pass: they are the first to go. None where there are none."""
    if plan.sharded:  # it has none, and the others are in the middle of a pass
        return None
    if not on_any_rank(give_up_recordings(model, "memory ran out")):
        return None
    text = f"{what} {step:,} ran out of memory (E-RUN-002) and is done again, as all after it, without recorded passes"
    return Notice("warning", text, "training.cuda_graphs: false", step)


def _lowered(plan: Plan, batches: Sequence[MicroBatch], step: int, what: str) -> tuple[Passes, Notice] | None:
    """Passes that hold less than the plan's."""
    if not plan.config.training.auto or plan.sharded:
        return None
    now, lean, model = plan.passes, plan.lean, plan.model
    layers = model.layers if model and (lean or model.supports_gradient_checkpointing) else 0
    largest = max((b.num_tokens if b.document_offsets else b.input_ids_BT.numel() for b in batches), default=0)
    # what is given up is the same on all ranks, whichever of them it was
    largest, rows = (int(number) for number in most_of_ranks(largest, max((b.rows for b in batches), default=0)))
    if rows > 1:
        tokens = max(1, min(largest, now.micro_batch_tokens) // 2)
        passes, change = replace(now, micro_batch_tokens=tokens), f"training.max_tokens_per_micro_batch: {tokens}"
        text = f"passes of at most {tokens:,} tokens instead of {largest:,}"
    elif now.unpack_once:
        passes, change = replace(now, unpack_once=False), ""  # a resume keeps it; no key asks for it
        in_8_bits = plan.config.quantization.base_precision == "fp8"
        text = "8-bit weights are transposed at each use" if in_8_bits else "4-bit weights are unpacked at each use"
    elif now.checkpointed_layers < layers:
        half = (layers + 1) // 2
        count = half if lean and now.checkpointed_layers < half else layers
        passes, change = replace(now, checkpointed_layers=count), "training.gradient_checkpointing: true"
        text = f"{count:,} of {layers:,} layers are computed again in the backward pass"
    else:
        return None
    passes = replace(passes, how=f"lowered at step {step:,}, when memory ran out", lowered=True)
    said = (
        f"{what} {step:,} ran out of memory (E-RUN-002) and is done again, the same examples in the same order: {text}"
    )
    return passes, Notice("warning", said, change, step)
