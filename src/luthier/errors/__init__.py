"""The error tree: everything that Luthier tells a user went wrong.

    LuthierError              one or more Problems; carries the exit code
    |-- ConfigError    (2)    E-CFG-...    the YAML, an override, an impossible combination
    |-- DataError      (2)    E-DATA-...   a dataset, a row, a template
    |-- ModelError     (2)    E-MODEL-...  weights, tokenizer, quantization, adapter
    |-- MissingError   (2)    E-ENV-...    a missing extra, a read-only folder, no network
    |-- CheckpointError (2)   E-CKPT-...   a checkpoint that cannot be resumed
    |-- RefusedError    (3)    any          a gate or a comparison said no
    `-- RunError       (1)    E-RUN-...    the run itself failed

A `Problem` is what the screen shows: a stable code, the place, what was found, why it matters and one fix; it never
holds a secret (`luthier.errors.secrets`).
The long text behind a code lives in `luthier.errors.codes` and is printed by `luthier explain CODE`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from luthier.errors.codes import CODES, Explanation
from luthier.errors.secrets import hider
from luthier.errors.terminal import columns, hanging

EXIT_FAILED = 1
EXIT_WRONG_REQUEST = 2
EXIT_REFUSED = 3
EXIT_RESUMABLE = 75

__all__ = [
    "CODES",
    "EXIT_FAILED",
    "EXIT_REFUSED",
    "EXIT_RESUMABLE",
    "EXIT_WRONG_REQUEST",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Explanation",
    "LuthierError",
    "MissingError",
    "ModelError",
    "Problem",
    "RefusedError",
    "RunError",
]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in the words the user reads.

    Attributes:
        code: A key of `luthier.errors.codes.CODES`, for example ``E-CFG-003``.
        found: What was found, for example ``unknown key "learning_rat"``.
        fix: What to write or run instead: one line.
        where: ``file:line``, a dotted key or a folder; empty where there is no place.
        why: Why it matters here; empty takes the sentence of the code's explanation.
    """

    code: str
    found: str
    fix: str
    where: str = ""
    why: str = ""

    def __post_init__(self) -> None:
        assert self.code in CODES, f"undeclared error code {self.code}"
        hidden = hider()
        for name in ("found", "fix", "where", "why"):
            object.__setattr__(self, name, hidden(getattr(self, name)))

    def render(self) -> str:
        """The block that goes to the screen, without a trailing newline; in the width of a terminal, where it is one.

        What was found may quote a file: control characters in it do not reach the terminal.
        """
        return "\n".join(self._lines())

    def _lines(self) -> tuple[str, ...]:
        place = f"{self.where}: " if self.where else ""
        lines = (
            f"{self.code}  {place}{self.found}",
            f"  why   {self.why or CODES[self.code].why}",
            f"  fix   {self.fix}",
            f"  more  luthier explain {self.code}",
        )
        room = columns(sys.stderr)
        return tuple(hanging("".join(c if c.isprintable() else "·" for c in line), " " * 8, room) for line in lines)


def rendered(problems: Iterable[Problem]) -> str:
    """Problems as the screen shows them: those of one kind in one block, in which why and fix are said once."""
    blocks = []
    for _, group in groupby(problems, key=lambda problem: problem._lines()[1:]):
        alike = [problem._lines() for problem in group]
        blocks.append("\n".join((*(lines[0] for lines in alike), *alike[0][1:])))
    return "\n\n".join(blocks)


class LuthierError(Exception):
    """Base of all errors for users. `str(error)` is exactly what the screen shows."""

    exit_code = EXIT_FAILED

    def __init__(self, *problems: Problem) -> None:
        super().__init__(rendered(problems))
        self.problems = problems

    def _render_traceback_(self) -> list[str]:
        """What notebooks show in place of a traceback (IPython asks for it by this name)."""
        return str(self).splitlines()


class ConfigError(LuthierError, ValueError):
    """The YAML, an override or a combination of keys is wrong."""

    exit_code = EXIT_WRONG_REQUEST


class DataError(LuthierError, ValueError):
    """A dataset, a row or a template is wrong."""

    exit_code = EXIT_WRONG_REQUEST


class ModelError(LuthierError, ValueError):
    """Weights, tokenizer, quantization or adapter are wrong."""

    exit_code = EXIT_WRONG_REQUEST


class MissingError(LuthierError, OSError):
    """Something this machine lacks: an extra, a file, a device, a network."""

    exit_code = EXIT_WRONG_REQUEST


class CheckpointError(LuthierError, ValueError):
    """A checkpoint cannot be resumed as asked."""

    exit_code = EXIT_WRONG_REQUEST


class RefusedError(LuthierError):
    """A gate or a comparison said no."""

    exit_code = EXIT_REFUSED


class RunError(LuthierError, RuntimeError):
    """The run itself failed."""

    exit_code = EXIT_FAILED
