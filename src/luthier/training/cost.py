"""What a step costs, fitted from a run's first steps.

    seconds = a passes + b tokens        least squares over steps, a and b never below 0

a is what a pass costs whatever it holds, b what a token adds. Steps of different lengths tell the two apart. The fit
says whether fewer, larger passes would pay; nothing is changed by itself in the middle of a run, so that a resumed run
stays exactly the uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from luthier.events.types import Notice

FIRST_STEPS = 20
WARM_UP = 3
"""Of them, the first ones: caches fill, threads start."""
_WORTH_SAYING = 0.05


@dataclass(frozen=True)
class Cost:
    """The fit.

    Attributes:
        pass_seconds: a.
        token_seconds: b.
        error: Mean relative distance of a step from it; nan where no step was fitted.
        steps: Those that were; 0: it is scaled from the rehearsal.
        update_seconds: What a step costs beside; in a and b already where steps were fitted.
    """

    pass_seconds: float
    token_seconds: float
    error: float = math.nan
    steps: int = 0
    update_seconds: float = 0.0


class StepCost(NamedTuple):
    """What a step was, and what it took.

    Attributes:
        passes: Forward and backward passes of it.
        computed: Tokens that were computed in them.
        whole: Tokens of its rows, each row whole: what passes are filled by.
        seconds: Time that it took.
        usual: Not where a GPU met a size for the first time and recorded it, which a long run soon does no more.
    """

    passes: int
    computed: int
    whole: int
    seconds: float
    usual: bool = True


def advice(steps: Sequence[StepCost], step: int) -> Notice | None:
    """What the first steps cost, where fewer and larger passes would pay; None where they would not.

    Args:
        steps: The first `FIRST_STEPS` of an attempt.
        step: The number of the last one.
    """
    timed = [(each.passes, each.computed, each.seconds) for each in steps[WARM_UP:]]
    return _notice(fit(timed), timed, max(each.whole for each in steps), step)


def fit(steps: list[tuple[int, int, float]]) -> Cost:
    """Least squares over (passes, tokens, seconds) of steps."""
    table = np.array(steps, dtype=np.float64)
    features, seconds = table[:, :2], table[:, 2]
    solution = np.linalg.lstsq(features, seconds, rcond=None)[0]
    if solution[0] < 0 or solution[1] < 0:  # one of them explains all there is
        kept = 1 if solution[0] < 0 else 0
        solution = np.zeros(2)
        solution[kept] = (features[:, kept] @ seconds) / (features[:, kept] @ features[:, kept])
    error = float(np.mean(np.abs(features @ solution - seconds) / np.maximum(seconds, 1e-12)))
    return Cost(float(solution[0]), float(solution[1]), error, len(steps))


def _notice(cost: Cost, steps: list[tuple[int, int, float]], largest: int, step: int) -> Notice | None:
    passes, _, seconds = (sum(column) / len(steps) for column in zip(*steps, strict=True))
    saved = (passes - 1) * cost.pass_seconds / max(seconds, 1e-12)
    if saved < _WORTH_SAYING:
        return None
    text = (
        f"a pass costs {_seconds(cost.pass_seconds)} and 1,000 tokens {_seconds(1000 * cost.token_seconds)} "
        f"(fitted on {cost.steps} steps, {cost.error:.0%} off); with memory for it, one pass a step instead of "
        f"{passes:.1f} would save {saved:.0%}"
    )
    wanted = math.ceil(largest / 256) * 256
    return Notice("info", text, f"training.max_tokens_per_micro_batch: {wanted}", step)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.1f} ms"
