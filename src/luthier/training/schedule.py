"""The learning rate of each step: a pure function of the step's number, so that it cannot be wrong after a resume.

With w warmup steps, S steps in all, d decay steps, peak p and floor m, for step s = 0, 1, ...:

    s < w       p (s + 1) / w                                       rise
    constant    p
    linear      m + (p - m) (1 - t)                t = (s - w) / (S - w)
    cosine      m + (p - m) (1 + cos(pi t)) / 2
    wsd         p until S - d, then m + (p - m) (1 - (s - (S - d)) / d)     warm up, stay, decay (Hu et al. 2024)
"""

from __future__ import annotations

import math

from luthier.config.plan import Plan


def learning_rate(plan: Plan, step: int) -> float:
    """Learning rate of optimizer step `step` (0 for the first)."""
    training = plan.config.training
    peak, floor = training.learning_rate, training.min_learning_rate
    if step < plan.warmup_steps:
        return peak * (step + 1) / plan.warmup_steps
    if training.lr_scheduler_type == "constant":
        return peak
    if training.lr_scheduler_type == "wsd":
        start, length = plan.total_steps - plan.decay_steps, plan.decay_steps
        return peak if step < start else floor + (peak - floor) * (1 - (step - start) / max(1, length))
    progress = (step - plan.warmup_steps) / max(1, plan.total_steps - plan.warmup_steps)
    falling = (1 + math.cos(math.pi * progress)) / 2 if training.lr_scheduler_type == "cosine" else 1 - progress
    return floor + (peak - floor) * falling
