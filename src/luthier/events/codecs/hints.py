"""What trainers say in plain lines: how many steps there will be, what is trained, what was saved, what they warn of.

    Trainer   ***** Running training *****   Num Epochs = 3   Total optimization steps = 1,234
    Unsloth   Num examples = 51,760 | Num Epochs = 1 | Total steps = 60
    PEFT      trainable params: 11,272,192 || all params: 1,247,086,592 || trainable%: 0.9039
    Axolotl   [2025-05-19 17:03:46,240] [WARNING] [axolotl.utils.…:461] [PID:99] [RANK:0] text
    Trainer   [WARNING|trainer.py:816] 2025-05-19 17:03:46,240 >> text
    Python    file.py:12: UserWarning: text

Sources: transformers 5.23 `trainer.py`; peft 0.21 `peft_model.py`; Unsloth 2025.9 `models/llama.py`; Axolotl 0.15
`logging_config.py`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from luthier.events.codecs.base import COUNT
from luthier.events.printable import one_line
from luthier.events.types import Architecture, CheckpointSaved, Event, Notice

ANSI = re.compile(r"\x1b\[[0-9;?]{0,16}[A-Za-z]")

_STEPS = re.compile(rf"Total (?:optimization )?steps = {COUNT}")
_EPOCHS = re.compile(rf"Num Epochs = {COUNT}")
_PEFT = re.compile(rf"trainable params: {COUNT} \|\| all params: {COUNT}")
_UNSLOTH = re.compile(rf"Trainable parameters = {COUNT} of {COUNT}")
_SAVED = re.compile(r"Saving model checkpoint to (\S{0,400}checkpoint-(\d{1,18}))")
_LOGGED = re.compile(r"\[[^\]]{0,40}\] \[(WARNING|ERROR|CRITICAL)\] (?:\[[^\]]{0,200}\] ?){0,4}(.*)")
_LOGGED_BY_TRANSFORMERS = re.compile(r"\[(WARNING|ERROR|CRITICAL)\|[^\]]{0,200}\] [^>]{0,40}>> (.*)")
_WARNED = re.compile(r"\S{1,400}\.py:\d{1,9}: (\w{0,40}Warning: .*)")
_LONGEST = 500
_PROGRAMS = (
    ("[axolotl.", "Axolotl"),
    ("llamafactory.", "LLaMA-Factory"),
    ("🦥 Unsloth", "Unsloth"),
    ("==((====))==  Unsloth", "Unsloth"),
)
"""(what its lines have, whose log it is)."""


@dataclass
class Hints:
    """What a run says of itself before its first log step; 0 and nan while it has not."""

    total_steps: int = 0
    epochs: float = math.nan
    program: str = ""

    def take(self, line: str) -> bool:
        """Read one line; returns whether it said how many steps there will be."""
        if not self.program:
            self.program = next((name for mark, name in _PROGRAMS if mark in line), "")
        if " = " not in line:
            return False
        if match := _EPOCHS.search(line):
            self.epochs = float(_int(match[1]))
        if match := _STEPS.search(line):
            self.total_steps = _int(match[1])
        return match is not None


def said(line: str) -> Event | None:
    """The event that a plain line of a trainer tells; None for the many that tell none."""
    if match := _PEFT.search(line) or _UNSLOTH.search(line):
        return Architecture(_int(match[2]), _int(match[1]), modules=[])
    if match := _SAVED.search(line):
        return CheckpointSaved(int(match[2]), match[1], bytes=0, seconds=math.nan)
    if match := _LOGGED.match(line) or _LOGGED_BY_TRANSFORMERS.match(line):
        return Notice("warning" if match[1] == "WARNING" else "critical", one_line(match[2][:_LONGEST]))
    if match := _WARNED.match(line):
        return Notice("info", one_line(match[1][:_LONGEST]))
    return None


def _int(text: str) -> int:
    return int(text.replace(",", ""))
