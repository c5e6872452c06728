"""The learning-rate finder: a few short trials, their rates half a power of ten apart.

Smith (2017) lets the rate rise within one run and looks where the loss falls fastest and where it breaks out. There
each rate is judged on weights that the smaller ones left, by a loss that is as noisy as single batches are. Here each
rate gets a short whole run of its own from the same start, with warmup and decay, judged on the held-out rows:

    rates     1e-5, 3.2e-5, 1e-4, ... 1e-2        as many as there are trials, equal factors apart; none is below the
                                                  config's min_learning_rate. A tenth of these for objective: dpo
    steps     a twentieth of the run's, 40 at least; the same share of its warmup

It costs about a third of one run. A short run sees less of what a rate does in the long one, and tends towards rates
that win early (Wu et al. 2018): sweep around the one that is found where it matters.

Sources: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.3; Y. Wu et al.,
"Understanding Short-Horizon Bias in Stochastic Meta-Optimization" (2018).
"""

from __future__ import annotations

import json
from dataclasses import replace

from luthier.sweep.space import Space, finder_range

TRIALS = 7
LEAST_STEPS, SHARE = 40, 20


def find_rate(space: Space, total_steps: int, trials: int) -> Space:
    """The space of the finder.

    Args:
        space: As it was asked for.
        total_steps: Of the whole run.
        trials: How many rates, at least 2.
    """
    between = finder_range(space.loaded)
    factor = (between.high / between.low) ** (1 / (trials - 1))
    rounded = [float(f"{between.low * factor**i:.2g}") for i in range(1, trials)]
    rates = tuple(json.dumps(rate) for rate in (between.low, *rounded))
    steps = min(total_steps, max(LEAST_STEPS, total_steps // SHARE))
    fixed = [f"training.max_steps={steps}"]
    if warmup := space.loaded.config.training.warmup_steps:
        fixed.append(f"training.warmup_steps={warmup * steps // total_steps}")
    ranges = (replace(between, choices=rates, low=0.0, high=0.0),)
    return replace(space, ranges=ranges, fixed=tuple(fixed))
