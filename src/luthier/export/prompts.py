"""The prompts on which an export is compared with the run: token ids, as the training began its rows.

    a file        one instruction a line, when the user gives one; of a long file some, spread evenly
    held out      rows of the run that it was never trained on: their prompts (of a text the first half), spread evenly
    built in      a few instructions, where the run held nothing out, or its rows are not those of the training: one row
                  more moves the split, and what is held out now may have been trained on

Not covered: conversations of several turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luthier.config.outputs import RECORD
from luthier.config.record import load_record
from luthier.data.prepare import prepare
from luthier.data.rows import TokenRow
from luthier.errors import DataError, LuthierError, Problem
from luthier.export.agree import most_prompts
from luthier.generate.load import Tuned, final_folder
from luthier.model.hub import load_config, load_tokenizer

COUNT = 16
BUILT_IN = (
    "Write a Python function that reverses a string.",
    "Write a function called `double` that returns twice its argument.",
    "Explain what a list comprehension is.",
    "Return the largest number in a list without using max.",
    "What is the difference between a list and a tuple?",
    "Write a loop that prints the numbers from 1 to 10.",
    "Count the vowels in a sentence.",
    "Translate to French: good morning.",
    "Name three primary colours.",
    "Write a function that checks whether a number is prime.",
    "Summarize in one sentence why the sky is blue.",
    "Sort the words of a sentence by their length.",
    "What does the following print? print(2 ** 10)",
    "Write a haiku about the sea.",
    "Remove duplicates from a list and keep the order.",
    "Give an example of a recursive function.",
)


@dataclass(frozen=True)
class Prompts:
    """What is asked.

    Attributes:
        ids: Token ids of each prompt.
        source: How many and where from, in words.
    """

    ids: list[list[int]]
    source: str


def choose(run: str | Path, tuned: Tuned, texts: Sequence[str] = (), count: int = COUNT) -> Prompts:
    """Prompts for a run.

    Args:
        run: Its output folder, or its final_model folder.
        tuned: The run, loaded.
        texts: Instructions (`read`); as many of them are used as a reference has room for.
        count: How many otherwise.
    """
    if texts:
        most = most_prompts(tuned.model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
        used = [texts[index] for index in _spread(len(texts), most)]
        of_all = f" of {len(texts):,}" if len(used) < len(texts) else ""
        return Prompts([tuned.prompt_ids(text) for text in used], f"{len(used)}{of_all} prompts of your file")
    rows, why = _held_out(final_folder(run).parent, count)
    if rows:
        return Prompts(rows, f"{len(rows)} prompts of held-out rows")
    texts = BUILT_IN[:count]
    source = f"{len(texts)} built-in prompts" + (f" (its held-out rows cannot be had: {why})" if why else "")
    return Prompts([tuned.prompt_ids(text) for text in texts], source)


def read(file: Path | None) -> tuple[str, ...]:
    """The instructions in a file, one a line; none without a file.

    Raises:
        DataError: E-EXPORT-010 when the file cannot be read or is empty.
    """
    if file is None:
        return ()
    try:
        texts = tuple(line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        found = "" if texts else "it is empty"
    except (OSError, ValueError) as error:
        texts, found = (), getattr(error, "strerror", None) or "not UTF-8 text"
    if found:
        fix = "give a text file with one instruction a line"
        raise DataError(Problem("E-EXPORT-010", f"cannot read {file}: {found}", fix, "--prompts"))
    return texts


def _held_out(run: Path, count: int) -> tuple[list[list[int]], str]:
    """Prompts of the run's held-out rows; none, and why, where there are none to be had."""
    if not (run / RECORD).is_file():
        return [], ""
    try:
        loaded = load_record(run)
        config = loaded.config
        tokenizer = load_tokenizer(config.model, load_config(config.model))
        prepared = prepare(config, tokenizer)
    except LuthierError as error:  # moved or broken since; there are prompts without them
        return [], error.problems[0].found
    rows = prepared.eval
    if rows is None:
        return [], ""
    assert loaded.record is not None
    if prepared.fingerprint != (loaded.record.facts.get("inputs") or {}).get("rows"):
        return [], "the rows, or how they become tokens, are not those of the training"
    chosen = [rows.members(index)[0] for index in _spread(len(rows), count)]
    return list(map(list, dict.fromkeys(map(_prompt, chosen)))), ""


def _spread(there: int, most: int) -> list[int]:
    """Places of at most `most` things, spread evenly."""
    return [int(place) for place in np.linspace(0, there - 1, min(most, there)).round()]


def _prompt(row: TokenRow) -> tuple[int, ...]:
    """What stands before the first trained token; where that is BOS at most (texts), the first half of the row."""
    before = int(np.argmax(row.trained))
    return tuple(row.input_ids[: before if before > 1 else len(row.input_ids) // 2].tolist())
