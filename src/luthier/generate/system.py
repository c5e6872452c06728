"""The system message that a run was trained with: who asks without one asks what no training row ever asked.

Where all rows of the training have one and the same, `final_model/luthier.json` holds it, and everything that asks a
run by itself begins with it, unless its user gives another one, or none.

Not covered: completions, which are texts without turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.config.outputs import TRAINED_ON
from luthier.data.template import adds_nothing
from luthier.errors import ModelError, Problem
from luthier.errors.trace import brief
from luthier.events.printable import beginning
from luthier.generate.weights import read_json

if TYPE_CHECKING:
    from luthier.generate.load import Tuned

Conversation = str | Sequence[Mapping[str, str]]
"""An instruction, or messages that end with the user."""


def trained_system(folder: Path) -> str:
    """What the rows of a run had as their system message; empty where they had none, or several.

    Args:
        folder: Its final_model.

    Raises:
        ModelError: E-MODEL-012 when the file that says so is damaged.
    """
    file = folder / TRAINED_ON
    system = read_json(file).get("system") if file.is_file() else None
    if not isinstance(system, str | None):
        raise ModelError(Problem("E-MODEL-012", f"{TRAINED_ON} is damaged: system", "copy it again", str(folder)))
    return system or ""


def first_turn(text: str, system: str = "") -> list[dict[str, str]]:
    """The messages of a question, with a system message where there is one."""
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": text}]


def in_words(system: str) -> str:
    """A clause for a screen: `with the system message "..."`; empty for none."""
    return f'with the system message "{beginning(system)}"' if system else ""


def check_system(tuned: Tuned, system: str, where: str = "--system") -> None:
    """Whether the run's template writes a system message where the model reads it.

    Args:
        tuned: The run.
        system: The message; nothing is wrong with an empty one.
        where: What gave it.

    Raises:
        ModelError: E-EVAL-029, it does not.
    """
    if not system:
        return
    found = ""
    try:
        template = tuned.tokenizer.get_chat_template()
        shown, other = (
            tuned.tokenizer.apply_chat_template(first_turn("Add", text), add_generation_prompt=True, tokenize=False)
            for text in (system, f"{system} And so on.")
        )
        if adds_nothing(template):
            found = "the run was trained on texts as they are, and knows no system message"
        elif shown == other:
            found = "the run's chat template leaves a system message out"
    except Exception as error:  # a template is a program: it may raise anything
        found = f"the run's chat template refuses a system message: {brief(error)}"
    if found:
        raise ModelError(Problem("E-EVAL-029", found, f"leave {where} out, or write it into the question", where))
