"""Runs programs that a model wrote, holds them, and says whether they are right. Imports no torch."""

from luthier.evaluate.sandbox.sandbox import Sandbox
from luthier.evaluate.sandbox.types import Cause, Program, Verdict

__all__ = ["Cause", "Program", "Sandbox", "Verdict"]
