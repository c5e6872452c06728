"""The data card, written from the rows themselves.

Not covered: what a model makes of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rows.verify import Row

CARD = """# Rows of the quickstart

Made by `python recipes/quickstart/make_rows.py` from a grammar, with fixed seeds: the same files come out each time.
Nothing was copied from a public set and no model wrote any of it. License: that of Luthier.

| file | rows | what |
|---|---|---|
| `train.jsonl` | {train} | alpaca rows (`instruction`, `input`, `output`), with `family` and `tests` |
| `heldout.jsonl` | {tasks} | {splits} |

{families} families: {areas}. In {composed} of them a row joins two operations ("first X, then Y").
A training row has {mean:.0f} characters of instruction and output on average, {longest} at most.

## What a family is

A small task with parameters: the function's name, at times the arguments' names, numbers, letters, words, separators,
and options (ascending or descending, inclusive or exclusive). Openings shared by all families, times up to ten ways
to say each task, make the instructions. Where an instruction gives no name, the function is called as its family.

## Splits of the held-out tasks

- `phrasing`: said in a way that no training row of any family has. Names and literals are drawn as in training, so the
  program may be one that training has seen.
- `parameter`: said as in training, but the function's name, arguments that the instruction names, and every number,
  letter, word or separator that the family takes are kept aside: positive numbers n with n % 7 == 6, and the `held`
  lists of `recipes/quickstart/rows/pools.py`.
- `composition`: two operations that training has, each in other pairs, in an order and pair that it never has. Of the
  ordered pairs, 75 % are in training, 15 % held out, 10 % unused. A pair in which one operation can never change the
  result is in none.

## No task is in training

Checked when the files are made, and again by `tests/quickstart/test_rows.py`:

- No held-out instruction equals a training instruction, without case, punctuation and spacing.
- `phrasing`: with placeholders for names, numbers and quoted text, the instruction equals none of training; each of its
  words occurs in training.
- `parameter` and `composition`: no training row has the same program (`ast.unparse`).
- `parameter`: the family's training rows have neither the function's name, nor an argument name that the instruction
  gives, nor one of the texts and kept numbers of the task.
- `composition`: the ordered pair of operations is in no training row.

## Tests

Three to five asserts a row. Expected results come from a second implementation of each family, written another way than
the solution. Inputs are chosen so that the same solution with another literal or option fails, so that a constant
fails, and, where that is possible, so that other families fail. Every solution ran against its tests when the files
were made.
Of {trials} answers to other tasks with as many arguments, tried on the held-out tests, {caught:.2%} failed.

## What it is not

No benchmark of general ability: the tasks are small, made up, and of one style, so that a model of a few million
parameters can learn them in minutes. A high score says that fine-tuning worked, not that the model can program.
"""


def card(train: Sequence[Row], tasks: Sequence[Row], areas: dict[str, int], trials: int, caught: float) -> str:
    """The text of README.md.

    Args:
        train: Training rows.
        tasks: Held-out tasks.
        areas: Families in each area.
        trials: Wrong answers that were tried on the held-out tests.
        caught: The share of them that failed.
    """
    lengths = [len(row["instruction"]) + len(row["output"]) for row in train]
    return CARD.format(
        train=f"{len(train):,}",
        tasks=len(tasks),
        splits=", ".join(f"{n} `{split}`" for split, n in Counter(task["split"] for task in tasks).items()),
        families=sum(areas.values()),
        areas=", ".join(f"{name} {count}" for name, count in areas.items()),
        composed=areas["compositions"],
        mean=sum(lengths) / len(lengths),
        longest=max(lengths),
        trials=f"{trials:,}",
        caught=caught,
    )
