"""Writes the quickstart's rows: train.jsonl, heldout.jsonl and README.md, their data card.

    python recipes/quickstart/make_rows.py [FOLDER]

Every solution is run against its tests first, and held-out tasks are looked for in training; nothing is written when
something is wrong. The same files come out each time.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from rows.build import areas, heldout_tasks, train_rows
from rows.card import card

from rows import verify

MOST_DRAWS = 6
"""A `parameter` task whose tests let an answer with other parameters pass is drawn again, at most so often."""
FOLDER = Path(__file__).resolve().parents[2] / "src" / "luthier" / "quickstart" / "rows"


def files() -> dict[str, str]:
    """Name and text of each file.

    Raises:
        SystemExit: A solution fails, a task leaks, or tests do not tell right from wrong.
    """
    train, again = train_rows(), Counter[str]()
    for _ in range(MOST_DRAWS):
        tasks = heldout_tasks(again)
        tried = verify.discrimination(train, tasks)
        if not tried.passed:
            break
        again.update(tried.passed)
    problems = verify.failures([*train, *tasks]) + verify.leaks(train, tasks)
    problems += [f"{name}: a solution with other parameters passes" for name in tried.passed]
    if problems:
        raise SystemExit("\n".join(problems))
    return {
        "train.jsonl": lines(train),
        "heldout.jsonl": lines(tasks),
        "README.md": card(train, tasks, areas(), tried.trials, tried.caught),
    }


def lines(rows: list[verify.Row]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for name, text in files().items():
        folder.joinpath(name).write_text(text, encoding="utf-8")
