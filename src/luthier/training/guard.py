"""Steps that would harm the run: judged after the backward pass, before anything is applied.

    not finite     the loss or the gradient's norm is NaN or infinite: never applied
    spike          far above what the last steps showed: z = (x - median) / (1.4826 MAD) over the last `WINDOW` steps;
                   reported, or left out as well (`loss_spikes: skip`). A gradient that clipping leaves as it is
                   is none, and one that it shortens, in a step whose loss is ordinary, is no reason for a warning.
                   Of pairs (`dpo`) a loss below chance is ordinary: one pair that is not told apart yet among many
                   that are

A step that is left out takes its place in the schedule and in the data, and moves no weight. What it decides by is part
of `TrainState`, so that a resumed run decides the same.

Not covered: rows that are bad and look good; `luthier.doctor` watches the curve as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from luthier.doctor.statistics import NORMAL
from luthier.training.state import TrainState

WINDOW = 64
FEWEST = 16
"""Steps before anything can be called a spike."""
SPIKE = 10.0
"""Robust z from which a step counts as one: a healthy loss of small batches reaches 5."""
_LEAST_SPREAD = 0.02
"""Of the median: a curve that lies still has no spread, and then everything would be a spike."""


@dataclass(frozen=True)
class Judgement:
    """What a step is taken for.

    Attributes:
        finite: Whether loss and gradient are numbers.
        spike: What is far above the usual, in words; empty when nothing is.
        clipped: It is the gradient alone, and clipping has cut it down.
    """

    finite: bool
    spike: str = ""
    clipped: bool = False


def judge(state: TrainState, loss: float, norm: float, max_grad_norm: float, ordinary: float = 0.0) -> Judgement:
    """Look at a step's mean loss and the length of its gradient, which is clipped at `max_grad_norm`.

    Args:
        state: What the steps before were like.
        loss: Mean over tokens or pairs.
        norm: Length of the gradient.
        max_grad_norm: 0: nothing is clipped.
        ordinary: A loss up to here is no spike, whatever those before it were.
    """
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return Judgement(False)
    said = []
    for name, value, past in (("loss", loss, state.recent_losses), ("gradient norm", norm, state.recent_norms)):
        if robust_z(value, past) > SPIKE and not (name == "loss" and loss <= ordinary):
            said.append(f"{name} {value:.3g}, usual {median(past):.3g}")
    gradient_alone = len(said) == 1 and said[0].startswith("gradient")
    if gradient_alone and 0 < norm <= max_grad_norm:
        return Judgement(True)
    return Judgement(True, "; ".join(said), clipped=gradient_alone and max_grad_norm > 0)


def remember(state: TrainState, loss: float, norm: float) -> None:
    """Take an applied step into what is usual."""
    for past, value in ((state.recent_losses, loss), (state.recent_norms, norm)):
        past.append(value)
        del past[:-WINDOW]


def robust_z(value: float, past: Sequence[float]) -> float:
    """How far `value` lies above the median of `past`, in robust standard deviations; 0 while they are too few."""
    if len(past) < FEWEST:
        return 0.0
    middle = median(past)
    spread = NORMAL * median(abs(p - middle) for p in past)
    return (value - middle) / max(spread, _LEAST_SPREAD * abs(middle), 1e-12)
