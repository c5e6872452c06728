"""All rules. A new one is a function in one of these files, and its name in that file's `RULES`."""

from __future__ import annotations

from luthier.doctor.finding import Rule
from luthier.doctor.rules import box, ending, held_out, loss, pairs, rates, rows, speed

RULES: tuple[Rule, ...] = (
    *ending.RULES, *loss.RULES, *rates.RULES, *rows.RULES, *held_out.RULES, *pairs.RULES, *speed.RULES, *box.RULES
)  # fmt: skip
DECISIVE = tuple(rule.name for rule in (loss.diverged, loss.loss_rising, loss.loss_stuck, pairs.margins_flat))
"""What must have been judged before a run is called healthy: whether the loss falls, rises, or has blown up."""
