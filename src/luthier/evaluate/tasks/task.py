"""A task, and the rows that tasks are written down in."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from luthier.errors import DataError, Problem
from luthier.evaluate.sandbox.verdict import parsed, read_tests

_OPTIONAL = ("task_id", "split", "entry_point", "output")
FIX = "one JSON object a line with instruction (text) and tests (a list of assert statements)"
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
    """A question whose answer is code, and the statements that the code must pass.

    Attributes:
        task_id: Its name, unique in its set.
        split: The group that it is counted in; empty where there are none.
        instruction: What the model is asked.
        tests: Assert statements in Python, each by itself.
        entry_point: Name of the function that the tests call; empty where nobody has said.
        reference: An answer that passes; empty where there is none.
        preamble: Code that the question gives and the tests need (imports, helpers); it comes before the answer's code.
        completion: The same question for a model without a chat template; None: `as_completion` makes it.
    """

    task_id: str
    split: str
    instruction: str
    tests: tuple[str, ...]
    entry_point: str = ""
    reference: str = ""
    preamble: str = ""
    completion: Completion | None = None

    @property
    def as_completion(self) -> Completion:
        """The set's own; else the instruction as a docstring, under which code follows (Fried et al. 2022, InCoder)."""
        return self.completion or Completion(f'"""\n{self.instruction.strip()}\n"""\n', DOCSTRING_STOPS)


_MOST_KINDS = 10
Make = Callable[[dict[str, Any], int], Task]
"""A task of a row and its line number; raises ValueError with what is wrong."""


def read_tasks(lines: Iterable[str], name: str, make: Make | None = None, fix: str = FIX) -> tuple[Task, ...]:
    """Tasks out of JSON lines; empty lines are passed over.

    Args:
        lines: One JSON object each.
        name: Of the file, for error messages and for the ids of tasks without one.
        make: What a row means. Default: `instruction` or `prompt`, `tests`, and perhaps `task_id`, `split`,
            `entry_point`, `output`.
        fix: What a wrong line should have been.

    Raises:
        DataError: E-EVAL-022 for each kind of wrong line (the first ten), E-EVAL-021 when there is no task at all.
    """
    tasks: list[Task] = []
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
    if wrong:
        kinds = list(wrong.items())[:_MOST_KINDS]
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
    tests = sound_tests(row.get("tests"))
    if row.get("input"):
        raise ValueError("it has an input; write it into the instruction")
    for key in _OPTIONAL:
        if not isinstance(row.get(key, ""), str):
            raise ValueError(f"{key} is no text")
    if any("\ud800" <= letter <= "\udfff" for letter in instruction):
        raise ValueError("instruction has half a character in it (a surrogate)")
    return Task(
        task_id=row.get("task_id") or f"line {number}",
        split=row.get("split", ""),
        instruction=instruction,
        tests=tests,
        entry_point=row.get("entry_point", ""),
        reference=row.get("output", ""),
    )


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
