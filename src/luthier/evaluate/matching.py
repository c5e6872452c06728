r"""Answers that are texts: compared with what a task expects. Nothing of them is run.

    exact      the whole answer is the text             case, width (NFKC) and how much white space stands where
    contains   the text stands somewhere in the answer  do not count in these two
    number     the last number of the answer is it, within a relative 1e-6: `1,234.5`, `-3`, `2e-5`
    regex      Python's `re` finds the pattern somewhere in the answer, white space at its ends aside

A pattern can take for ever (`(a+)+$`), and the text that it is tried on is a model's. So patterns are compiled and
tried in a process of its own, with little memory, which ends itself when one of them takes too long; that answer counts
as wrong, and the next process goes on behind it.

Not covered: shares of a text that are right (F1, ROUGE), and judges that are models.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from luthier.data.tokenize import normalised
from luthier.errors import Problem, RunError
from luthier.evaluate.sandbox.types import Verdict
from luthier.events.printable import one_line

Match = Literal["exact", "contains", "number", "regex"]
MATCHES: tuple[Match, ...] = get_args(Match)
PATTERN_SECONDS = 2.0
_MEMORY_MIB = 1024
_LATE = 1
_SHOWN = 60
_RELATIVE = 1e-6
_NUMBER = re.compile(
    r"(?:(?<![\w.)\]])[-+\u2212])?(?:\d{1,3}(?:,\d{3})+(?![\d])(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?",
    re.ASCII | re.IGNORECASE,
)
# faulthandler's thread ends the process with 1, also while `re` is busy and looks at no signal.
_CHILD = """
import faulthandler, json, os, re, sys, warnings
jobs, seconds, most_bytes = json.load(sys.stdin)
warnings.simplefilter("ignore")
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, ValueError, OSError):
    pass
nowhere = open(os.devnull, "w")

def tried(patterns, text):
    try:
        return "yes" if any(re.search(pattern, text) for pattern in patterns) else "no"
    except MemoryError:
        return "memory"
    except Exception as error:
        return "bad: " + str(error)

for patterns, text in jobs:
    faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
    said = tried(patterns, text)
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(said), flush=True)
"""


@dataclass(frozen=True)
class Expected:
    """What an answer has to be.

    Attributes:
        texts: Any of them counts.
        match: How the answer is compared.
    """

    texts: tuple[str, ...]
    match: Match = "exact"

    def __str__(self) -> str:
        """For a reader: `exact: positive or good`."""
        return f"{self.match}: {' or '.join(self.texts)}"


def judge(questions: Sequence[tuple[Expected, str]]) -> list[Verdict]:
    """The verdicts on answers, in their order.

    Args:
        questions: What is expected, and the answer.

    Raises:
        RunError: E-EVAL-030, patterns cannot be tried here.
    """
    patterns = [(expected.texts, answer.strip()) for expected, answer in questions if expected.match == "regex"]
    tried = iter(search(patterns))
    return [
        _of_pattern(expected, next(tried)) if expected.match == "regex" else _compared(expected, answer)
        for expected, answer in questions
    ]


def _compared(expected: Expected, answer: str) -> Verdict:
    if expected.match == "number":
        value = last_number(answer)
        right = value is not None and any(
            math.isclose(value, float(text), rel_tol=_RELATIVE) for text in expected.texts
        )
        found = "no number" if value is None else f"the last number is {value:.10g}"
        return _verdict(right, f"{found}, expected {' or '.join(expected.texts)}")
    said = normalised(answer)
    texts = [normalised(text) for text in expected.texts]
    right = said in texts if expected.match == "exact" else any(text in said for text in texts)
    return _verdict(right, f"expected {' or '.join(expected.texts)}")


def _of_pattern(expected: Expected, said: str) -> Verdict:
    if said in ("timeout", "memory"):
        what = f"{PATTERN_SECONDS:g} s" if said == "timeout" else f"{_MEMORY_MIB:,} MiB"
        return Verdict(False, said, f"the pattern takes more than {what} on this answer", 0.0)  # type: ignore[arg-type]
    return _verdict(said == "yes", f"no match of {' or '.join(expected.texts)}")


def _verdict(right: bool, detail: str) -> Verdict:
    return Verdict(right, "passed" if right else "wrong answer", "" if right else one_line(detail), 0.0)


def last_number(text: str) -> float | None:
    """The last number that stands in a text; None where there is none."""
    numbers = [found[0] for found in _NUMBER.finditer(text)]
    return float(_plain(numbers[-1])) if numbers else None


def only_number(text: str) -> str:
    """A text that is one number, in Python's way of writing it; empty where it is something else, or too large."""
    found = _NUMBER.fullmatch(text.strip())
    return _plain(found[0]) if found and math.isfinite(float(_plain(found[0]))) else ""


def _plain(number: str) -> str:
    return number.replace(",", "").replace("\u2212", "-")


def wrong_patterns(patterns: Sequence[str]) -> dict[str, str]:
    """What is wrong with patterns, of those with which something is.

    Raises:
        RunError: E-EVAL-030.
    """
    kinds = dict.fromkeys(patterns)
    tried = search([((pattern,), "") for pattern in kinds])
    wrong = {
        "yes": "it is found in an empty answer too",
        "timeout": f"it takes more than {PATTERN_SECONDS:g} s to read",
        "memory": f"it takes more than {_MEMORY_MIB:,} MiB to read",
    }
    found = {pattern: wrong.get(said, said.removeprefix("bad: ")) for pattern, said in zip(kinds, tried, strict=True)}
    return {
        pattern: f"answer is no usable pattern: {why}: {pattern[:_SHOWN]}"
        for pattern, why in found.items()
        if why != "no"
    }


def search(jobs: Sequence[tuple[Sequence[str], str]]) -> list[str]:
    """Whether one of some patterns is found in a text: `yes`, `no`, `timeout`, `memory`, or `bad: ` and why.

    Args:
        jobs: Patterns, and the text.

    Raises:
        RunError: E-EVAL-030, there is no process for it.
    """
    said: list[str] = []
    while len(said) < len(jobs):
        given = json.dumps([[[list(patterns), text] for patterns, text in jobs[len(said) :]], PATTERN_SECONDS,
                            _MEMORY_MIB << 20])  # fmt: skip
        try:
            command = [sys.executable, "-I", "-S", "-c", _CHILD]
            child = subprocess.run(command, input=given, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise _no_process(error.strerror or str(error)) from error
        said += [json.loads(line) for line in child.stdout.splitlines()]
        if len(said) < len(jobs):
            if child.returncode != _LATE or child.stderr:
                raise _no_process((child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1])
            said.append("timeout")
    return said


def _no_process(why: str) -> RunError:
    found = f"patterns are tried in a process of its own, and that fails: {one_line(why)[:200]}"
    return RunError(Problem("E-EVAL-030", found, "free memory or processes on this machine, then run it again"))
