"""Runs programs that a model wrote, holds them, and says whether they are right. Imports no torch."""

from luthier.evaluate.sandbox.sandbox import MEMORY_MIB, Sandbox
from luthier.evaluate.sandbox.types import Cause, Program, Verdict

__all__ = ["MEMORY_MIB", "Cause", "Program", "Sandbox", "Verdict"]
