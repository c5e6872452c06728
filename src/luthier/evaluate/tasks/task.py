"""A task, and the rows that tasks are written down in."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from luthier.errors import DataError, Problem
from luthier.evaluate.matching import MATCHES, Expected, only_number, wrong_patterns
from luthier.evaluate.sandbox.verdict import parsed, read_tests

_OPTIONAL = ("task_id", "split", "entry_point", "output")
_MEANT = ("expected", "answers", "label", "target", "reference", "output", "completion", "response")
FIX = "one JSON object a line with instruction (text), and tests (a list of assert statements) or answer (text)"
DOCSTRING_STOPS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n```")


@dataclass(frozen=True)
class Completion:
    """A question for a model that follows no instructions: a text that it goes on from.

    Attributes:
        prompt: The text.
        stops: Where the first of these begins, the answer ends.
        head: The part of the code that the prompt already holds; it comes before the answer.
    """

    prompt: str
    stops: tuple[str, ...]
    head: str = ""


@dataclass(frozen=True)
class Task:
    """A question, and what its answer must be: code that passes statements, or a text.

    Attributes:
        task_id: Its name, unique in its set.
        split: The group that it is counted in; empty where there are none.
        instruction: What the model is asked.
        tests: Assert statements in Python, each by itself; empty where the answer is a text.
        entry_point: Name of the function that the tests call; empty where nobody has said.
        reference: An answer that passes; empty where there is none.
        preamble: Code that the question gives and the tests need (imports, helpers); it comes before the answer's code.
        completion: The same question for a model without a chat template; None: `as_completion` makes it.
        expected: What the answer must be where it is a text; None where it is code.
        system: The system message that it is asked with, empty for none; None: that of the run.
    """

    task_id: str
    split: str
    instruction: str
    tests: tuple[str, ...]
    entry_point: str = ""
    reference: str = ""
    preamble: str = ""
    completion: Completion | None = None
    expected: Expected | None = None
    system: str | None = None

    @property
    def as_completion(self) -> Completion:
        """The set's own; else the instruction as a docstring, under which code follows (Fried et al. 2022, InCoder).

        One whose answer is a text is gone on from as it stands, up to an empty line, or to the end of the line where
        all of an answer of one line is compared.
        """
        if self.expected is not None:
            lines = self.expected.match != "exact" or any("\n" in text.strip() for text in self.expected.texts)
            return Completion(self.instruction, ("\n\n",) if lines else ("\n",))
        return self.completion or Completion(f'"""\n{self.instruction.strip()}\n"""\n', DOCSTRING_STOPS)


_MOST_KINDS = 10
Make = Callable[[dict[str, Any], int], Task]
"""A task of a row and its line number; raises ValueError with what is wrong."""


def read_tasks(lines: Iterable[str], name: str, make: Make | None = None, fix: str = FIX) -> tuple[Task, ...]:
    """Tasks out of JSON lines; empty lines are passed over.

    Args:
        lines: One JSON object each.
        name: Of the file, for error messages and for the ids of tasks without one.
        make: What a row means. Default: `instruction` or `prompt`, `tests` or `answer` (with `match`), and perhaps
            `system`, `task_id`, `split`, `entry_point`, `output`.
        fix: What a wrong line should have been.

    Raises:
        DataError: E-EVAL-022 for each kind of wrong line (the first ten), E-EVAL-021 when there is no task at all.
        RunError: E-EVAL-030, patterns cannot be tried here.
    """
    tasks: list[Task] = []
    patterns: dict[str, list[int]] = {}
    wrong: dict[str, list[int]] = {}
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            task = (make or _task)(_row(line), number)
            if task.task_id in first_line:
                raise ValueError(f'task_id "{task.task_id}" is already that of line {first_line[task.task_id]}')
        except (ValueError, RecursionError) as error:
            wrong.setdefault(str(error), []).append(number)
            continue
        first_line[task.task_id] = number
        tasks.append(task)
        if task.expected and task.expected.match == "regex":
            for pattern in task.expected.texts:
                patterns.setdefault(pattern, []).append(number)
    for pattern, found in wrong_patterns(list(patterns)).items():
        wrong.setdefault(found, []).extend(patterns[pattern])
    if wrong:
        kinds = sorted(wrong.items(), key=lambda kind: kind[1][0])[:_MOST_KINDS]
        raise DataError(
            *(Problem("E-EVAL-022", found + _more(lines), fix, f"{name}:{lines[0]}") for found, lines in kinds)
        )
    if not tasks:
        raise DataError(Problem("E-EVAL-021", "there is no task in it", "write one JSON object a line", name))
    return tuple(tasks)


def _more(lines: list[int]) -> str:
    return f" (and {len(lines) - 1:,} more, the next in line {lines[1]:,})" if len(lines) > 1 else ""


def _row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    return row


def _task(row: dict[str, Any], number: int) -> Task:
    instruction = row.get("instruction") or row.get("prompt")
    if not (isinstance(instruction, str) and instruction.strip()):
        raise ValueError("instruction is missing or empty" if not instruction else "instruction is no text")
    expected = _expected(row)
    tests = sound_tests(row.get("tests")) if expected is None else ()
    if row.get("input"):
        raise ValueError("it has an input; write it into the instruction")
    for key in _OPTIONAL:
        if not isinstance(row.get(key, ""), str):
            raise ValueError(f"{key} is no text")
    system = row.get("system")
    if not isinstance(system, str | None):
        raise ValueError("system is no text")
    for name, texts in (("instruction", (instruction,)), ("system", (system or "",)),
                        ("answer", expected.texts if expected else ())):  # fmt: skip
        if any("\ud800" <= letter <= "\udfff" for letter in "".join(texts)):
            raise ValueError(f"{name} has half a character in it (a surrogate)")
    return Task(
        task_id=row.get("task_id") or f"line {number}",
        split=row.get("split", ""),
        instruction=instruction,
        tests=tests,
        entry_point=row.get("entry_point", ""),
        reference=row.get("output", ""),
        expected=expected,
        system=system,
    )


def _expected(row: dict[str, Any]) -> Expected | None:
    """What the answer of a user's row must be; None where it has tests. Raises ValueError with what is wrong."""
    answer, tests, match = (row.get(key) for key in ("answer", "tests", "match"))
    if answer is None and "tests" not in row:
        meant = next((f"; it has {name}: call that answer" for name in _MEANT if row.get(name)), "")
        raise ValueError(f"it has neither tests nor an answer{meant}")
    if answer is None:
        if match is not None:
            raise ValueError("match is there, and no answer that it could be about")
        return None
    if tests:
        raise ValueError("it has tests and an answer; one of them decides, so leave the other out")
    match = "exact" if match is None else match
    if match not in MATCHES:
        raise ValueError(f"match is {match!r:.60}, not {', '.join(MATCHES[:-1])} or {MATCHES[-1]}")
    texts = answer if isinstance(answer, list) else [answer]
    if not texts or any(isinstance(text, str) and not text.strip() for text in texts):
        raise ValueError("answer is empty")
    return Expected(tuple(_answer(text, match) for text in texts), match)


def _answer(text: object, match: str) -> str:
    if match == "number":
        number = only_number(str(text)) if isinstance(text, str | int | float) and not isinstance(text, bool) else ""
        if not number:
            raise ValueError(f"answer is not one number: {str(text)[:60]}")
        return number
    if isinstance(text, int | float) and not isinstance(text, bool):
        raise ValueError('answer is a number: add "match": "number", or write it in quotes')
    if not isinstance(text, str):
        raise ValueError("answer is no text, and no list of texts")
    return text


def text(row: dict[str, Any], key: str) -> str:
    """The text under a key of a published set, with plain line ends; raises ValueError when there is none."""
    value = row.get(key)
    if not (isinstance(value, str) and value.strip()):
        raise ValueError(f"{key} is missing or empty" if not value else f"{key} is no text")
    return value.replace("\r\n", "\n")


def sound_tests(tests: object) -> tuple[str, ...]:
    """The tests, each of which is Python that asserts something; raises ValueError with what is wrong."""
    if not (isinstance(tests, list) and tests):
        raise ValueError("tests is missing or empty" if not tests else "tests is no list")
    for test in tests:
        _check_test(test)
    if not read_tests(tests):
        raise ValueError("no test would run: nothing calls the function that holds the asserts")
    return tuple(tests)


def _check_test(test: object) -> None:
    """A test that is not Python, or asserts nothing, would fail or pass every answer."""
    if not isinstance(test, str):
        raise ValueError(f"a test is no text: {str(test)[:60]}")
    try:
        statements = parsed(test)
    except (SyntaxError, ValueError, MemoryError) as error:
        raise ValueError(f"a test is no Python: {test[:60]}") from error
    if any(map(_returns, statements)):
        raise ValueError(f"a test returns outside of a function: {test[:60]}")
    if not any(isinstance(node, ast.Assert) for statement in statements for node in ast.walk(statement)):
        raise ValueError(f"a test asserts nothing: {test[:60]}")


def _returns(node: ast.AST) -> bool:
    """Whether there is a `return` that belongs to no function: it parses, and cannot be compiled."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    return isinstance(node, ast.Return) or any(map(_returns, ast.iter_child_nodes(node)))
