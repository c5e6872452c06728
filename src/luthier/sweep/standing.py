"""How a sweep stands: what the screen, the picture and the JSON are made from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["running", "done", "pruned", "failed"]


@dataclass(frozen=True)
class Row:
    """One trial.

    Attributes:
        number: From 0.
        values: Dotted key -> value.
        state: `pruned`: ended early, because it did worse than half of the others.
        losses: Loss on the held-out rows at each evaluation.
        folder: Its run: `luthier watch FOLDER`.
        seconds: Of all its attempts.
        step: The last one that it told of; 0 before.
        total_steps: 0 while unknown.
        reason: Why it failed.
    """

    number: int
    values: dict[str, Any]
    state: State
    losses: tuple[float, ...]
    folder: Path
    seconds: float = 0.0
    step: int = 0
    total_steps: int = 0
    reason: str = ""

    @property
    def eval_loss(self) -> float:
        """The lowest; inf before the first evaluation."""
        return min(self.losses, default=math.inf)


@dataclass(frozen=True)
class Standing:
    """All trials so far.

    Attributes:
        rows: In order.
        trials: How many there are to be.
        keys: What is tried, dotted.
        stopped: A stop was asked for; the sweep can go on.
    """

    rows: tuple[Row, ...]
    trials: int
    keys: tuple[str, ...]
    stopped: bool = False

    @property
    def best(self) -> Row | None:
        """The whole trial with the lowest loss; the earlier of two equal ones."""
        return min((row for row in self.rows if row.state == "done"), key=lambda row: row.eval_loss, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `best` is the number of a trial."""
        trials = [{**asdict(row), "folder": str(row.folder), "eval_loss": row.eval_loss} for row in self.rows]
        return {"best": self.best.number if self.best else None, "keys": list(self.keys), "trials": trials}
