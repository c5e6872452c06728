"""All checks of the gate, in the order in which they are shown. A new one is a function in a file of this folder."""

from luthier.gate.check import Check
from luthier.gate.checks import answers, fit, place, rows

CHECKS: tuple[Check, ...] = (*rows.CHECKS, *answers.CHECKS, *fit.CHECKS, *place.CHECKS)
