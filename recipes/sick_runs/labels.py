"""The labels of the runs, and the rules that name each."""

from __future__ import annotations

SEEDS = (1, 2, 3)
LENGTH = {1: 1.0, 2: 0.7, 3: 0.85}
"""Share of the steps, so that no threshold fits one length alone."""
HEALTHY = "healthy"
ACCEPTED: dict[str, tuple[str, ...]] = {
    HEALTHY: (),
    "learning-rate-too-high": ("learning-rate-too-high", "diverged"),
    "learning-rate-too-low": ("learning-rate-too-low",),
    "warmup-missing": ("warmup-missing", "learning-rate-too-high"),
    "not-finite": ("not-finite",),
    "nothing-learned": ("loss-high", "loss-stuck"),
    "frozen": ("loss-stuck",),
    "gradients-vanish": ("gradients-vanish",),
    "always-clipped": ("always-clipped",),
    "overfitting": ("overfitting",),
    "worse-than-base": ("worse-than-base",),
    "wrong-rows": ("first-loss-off", "worse-than-base", "overfitting"),
    "resume-broken": ("resume-jump",),
    "tokenizer-mismatch": ("first-loss-off",),
    "unknown-text": ("first-loss-off",),
    "template-mismatch": ("first-loss-off",),
    "spikes": ("loss-spikes",),
    "data-bound": ("data-bound",),
    "killed": ("stalled",),
    "margins-flat": ("margins-flat",),
    "pairs-by-heart": ("pairs-by-heart",),
    "chosen-displaced": ("chosen-displaced",),
}
"""Label -> rules that name it; one of them is enough."""
