"""The loss scale of float16: gradients travel back larger than they are, and are divided when they have arrived.

float16 has numbers from 6e-8 to 65,504. What one token's loss sends back through a layer is often less, and would be 0:

    loss --x scale--> backward pass in float16 --> gradients in float32 --/ scale--> norm, clipping, update

Too large a scale overflows instead. A step whose loss is a number and whose gradient is none is done again, with the
same rows and half the scale, so overflow costs time and no row; after `GROWS_AFTER` steps without, the scale doubles.
It is a power of two, so it changes no digit.

Source: Micikevicius et al. 2017 (arXiv 1710.03740), section 3.2; the constants are those of `torch.amp.GradScaler`,
which leaves such a step out. Not covered: overflow on the way forward, which no scale mends.
"""

from __future__ import annotations

import math

from luthier.config.plan import Plan
from luthier.training.state import TrainState

GROWS_AFTER = 2000
"""Steps."""
LOWEST, HIGHEST = 2.0**-10, 2.0**24


def scales(plan: Plan) -> bool:
    """Whether the loss of a run has a scale: other formats have all the numbers there are."""
    return plan.config.model.dtype == "float16"


def loss_scale(state: TrainState, plan: Plan) -> float:
    """What the summed loss of a step is multiplied by; 1 without a scale."""
    return state.loss_scale if scales(plan) else 1.0


def lower(state: TrainState, plan: Plan, loss: float, norm: float) -> bool:
    """Half the scale where a step's gradient overflowed; whether the step is to be done again.

    Args:
        state: Keeps the scale.
        plan: The plan.
        loss: Of the step; where it is no number itself, the scale is not the reason.
        norm: Length of the gradient.
    """
    overflowed = math.isfinite(loss) and not math.isfinite(norm)
    if not scales(plan) or not overflowed or state.loss_scale <= LOWEST:
        return False
    state.loss_scale, state.steps_at_scale = state.loss_scale / 2, 0
    return True


def grow(state: TrainState, plan: Plan) -> None:
    """Count a step that did not overflow; after `GROWS_AFTER` of them the scale is twice as large."""
    if not scales(plan):
        return
    state.steps_at_scale += 1
    if state.steps_at_scale >= GROWS_AFTER and state.loss_scale < HIGHEST:
        state.loss_scale, state.steps_at_scale = state.loss_scale * 2, 0
