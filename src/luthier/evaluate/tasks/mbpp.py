"""MBPP: 974 small Python problems of crowd workers, each with three asserts; the function's name is in the tests only.

    ids 1-10 prompt, 11-510 test, 511-600 validation, 601-974 train; the published results are of `test`

Asked in a chat template: the sentence of the paper with the task's tests. As a completion: the paper's prompt with
problems 2, 3 and 4 solved before it (none where the file lacks them), up to the first `[DONE]`.

Source: Austin et al. 2021, "Program Synthesis with Large Language Models"; rows CC BY 4.0, google-research/mbpp.
Not covered: the challenge tests, and the sanitized half (give its rows as a file in the same columns).
"""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.config.schema import DatasetSource
from luthier.evaluate.sandbox.verdict import parsed
from luthier.evaluate.tasks.published import lines_of
from luthier.evaluate.tasks.task import Completion, Task, read_tasks, sound_tests, text

NAME = "mbpp"
HOME = "https://github.com/google-research/google-research/tree/master/mbpp"
_HUB = DatasetSource(path="google-research-datasets/mbpp", name="full")
_HUB_SPLITS = ("prompt", "test", "validation", "train")
_LAST = {"prompt": 10, "test": 510, "validation": 600, "train": 974}
_SHOTS = ("MBPP/2", "MBPP/3", "MBPP/4")
_STOPS = ("[DONE]",)
_FIX = "a row of mbpp.jsonl has task_id, text, code, test_list and perhaps test_setup_code"


def load(path: Path | None) -> tuple[Task, ...]:
    """All problems, in the order of the file.

    Raises:
        DataError: E-EVAL-021, E-EVAL-022, E-EVAL-024.
    """
    lines = lines_of(NAME, path, _HUB, _HUB_SPLITS, HOME)
    tasks = read_tasks(lines, str(path or _HUB.path), _task, _FIX)
    solved = {task.task_id: f"{task.instruction}\n[BEGIN]\n{task.reference}\n[DONE]\n\n" for task in tasks}
    shots = "".join(solved[one] for one in _SHOTS if one in solved)
    return tuple(
        replace(task, completion=Completion(f"{shots}{task.instruction}\n[BEGIN]\n", _STOPS)) for task in tasks
    )


def _task(row: dict[str, Any], number: int) -> Task:
    identity = row.get("task_id")
    if not (isinstance(identity, int) and 1 <= identity <= _LAST["train"]):
        raise ValueError(f"task_id is {identity!r}, not a number from 1 to {_LAST['train']}")
    code, asserts = text(row, "code"), sound_tests(row.get("test_list"))
    asserts = tuple(test.replace("\r\n", "\n") for test in asserts)
    setup = text(row, "test_setup_code") if row.get("test_setup_code") else ""
    instruction = (
        f"You are an expert Python programmer, and here is your task: {text(row, 'text').strip()} "
        f"Your code should pass these tests:\n\n" + "\n".join(asserts)
    )
    return Task(
        task_id=f"MBPP/{identity}",
        split=next(split for split, last in _LAST.items() if identity <= last),
        instruction=instruction,
        tests=(setup, *asserts) if setup else asserts,
        entry_point=_called(code, asserts),
        reference=code,
    )


def _called(code: str, asserts: tuple[str, ...]) -> str:
    """The function of the reference that the tests call; empty where they call none of its functions."""
    try:
        defined = {node.name for node in parsed(code) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"code is no Python: {error}") from error
    nodes = (node for test in asserts for line in parsed(test) for node in ast.walk(line))
    return next((node.id for node in nodes if isinstance(node, ast.Name) and node.id in defined), "")
