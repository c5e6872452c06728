"""All rules. A new one is a function in one of these files, and its name in that file's `RULES`."""

from __future__ import annotations

from luthier.doctor.finding import Rule
from luthier.doctor.rules import box, ending, held_out, loss, rates, rows, speed

RULES: tuple[Rule, ...] = (
    *ending.RULES, *loss.RULES, *rates.RULES, *rows.RULES, *held_out.RULES, *speed.RULES, *box.RULES
)  # fmt: skip
