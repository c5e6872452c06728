"""HumanEval: 164 hand-written functions to be completed from signature and docstring, each with a `check` function.

As a completion (base models): the model goes on from the prompt itself, up to the next class, function, comment,
condition or print at the left margin, as the paper does. In a chat template (tuned models): the prompt stands in a
block of code, and the whole function is asked for; what stands above the function in the prompt (imports, helpers)
comes before the answer's code.

Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code"; rows MIT, openai/human-eval.
Not covered: the larger tests of HumanEval+ (give its rows as a file in the same columns).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.config.schema import DatasetSource
from luthier.evaluate.tasks.published import lines_of
from luthier.evaluate.tasks.task import Completion, Task, read_tasks, sound_tests, text

NAME = "humaneval"
HOME = "https://github.com/openai/human-eval/tree/master/data"
_HUB = DatasetSource(path="openai/openai_humaneval")
_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_FIX = "a row of HumanEval.jsonl has task_id, prompt, canonical_solution, test and entry_point"


def load(path: Path | None) -> tuple[Task, ...]:
    """All functions, in the order of the file.

    Raises:
        DataError: E-EVAL-021, E-EVAL-022, E-EVAL-024.
    """
    return read_tasks(lines_of(NAME, path, _HUB, ("test",), HOME), str(path or _HUB.path), _task, _FIX)


def _task(row: dict[str, Any], number: int) -> Task:
    identity, prompt, entry_point = (text(row, key) for key in ("task_id", "prompt", "entry_point"))
    preamble, found, _ = prompt.rpartition(f"def {entry_point}(")
    if not found:
        raise ValueError(f"prompt does not define {entry_point}")
    return Task(
        task_id=identity,
        split="",
        instruction=(
            "Complete this Python function. Answer with the whole function in one block of code.\n\n"
            f"```python\n{prompt.strip()}\n```"
        ),
        tests=sound_tests([f"{text(row, 'test')}\ncheck({entry_point})"]),
        entry_point=entry_point,
        reference=prompt + text(row, "canonical_solution"),
        preamble=preamble,
        completion=Completion(prompt, _STOPS, head=prompt),
    )
