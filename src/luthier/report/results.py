"""What `luthier compare --json` and `luthier evaluate --json` measured of a run, as rows for a page.

Files in the folder of the run are found by what is in them; those that are named must be such a file.

Not covered: measuring, and the statistics (`luthier.evaluate`): every number here was computed there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import DataError, Problem

_LARGEST = 256 * 1024 * 1024


@dataclass(frozen=True)
class Share:
    """A share of tasks, all between 0 and 1, with its 95 % interval."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """Base and tuned model on the tasks of one split."""

    split: str
    tasks: int
    base: Share
    tuned: Share
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p: float
    """Corrected where several comparisons were made at once."""


@dataclass(frozen=True)
class Compared:
    """A run beside its base on one set of tasks."""

    file: str
    run: str
    tasks: str
    verdict: str
    rows: tuple[Row, ...]
    forgetting: str
    """Losses on general text before and after; empty: not measured."""


@dataclass(frozen=True)
class Scored:
    """A model alone on one set of tasks: (what, share) for each k and each split."""

    file: str
    model: str
    tasks: str
    shares: tuple[tuple[str, Share], ...]


@dataclass(frozen=True)
class Results:
    """All that was found."""

    compared: tuple[Compared, ...] = ()
    scored: tuple[Scored, ...] = ()


def found_results(folder: Path | None, files: Sequence[Path], name: str) -> Results:
    """The results in a run's folder and in the files that were named.

    Args:
        folder: Of the run; None for a log alone.
        files: Those that were named.
        name: Of the run: in a file about several, only what is about this one counts.

    Raises:
        DataError: E-RUN-007 when a file that was named is none of these.
    """
    compared: list[Compared] = []
    scored: list[Scored] = []
    named = [file.resolve() for file in files]
    beside = sorted(folder.glob("*.json")) if folder else []
    for path in dict.fromkeys((*files, *(file for file in beside if file.resolve() not in named))):
        try:
            some, others = _read(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if path not in files:
                continue
            found = f"cannot read {path}: {getattr(error, 'strerror', None) or 'no file of these commands'}"
            fix = "give the file that luthier compare or luthier evaluate wrote with --json FILE"
            raise DataError(Problem("E-RUN-007", found, fix, "--results")) from error
        compared += [one for one in some if _is(one.run, name)] or (some if path in files else [])
        scored += [one for one in others if _is(one.model, name)] or (others if path in files else [])
    return Results(tuple(compared), tuple(scored))


def _is(path: str, name: str) -> bool:
    """Whether a path is that of a run, or of something inside it; `.` may be any."""
    parts = Path(path).parts
    return not parts or name in parts[-2:]


def _read(path: Path) -> tuple[list[Compared], list[Scored]]:
    if path.stat().st_size > _LARGEST:
        raise ValueError("too large")
    content = json.loads(path.read_text(encoding="utf-8"))
    if "comparisons" in content:
        return [_compared(path.name, one) for one in content["comparisons"]], []
    model = str(content["model"])
    return [], [_scored(path.name, model, name, one) for name, one in content["scores"].items()]


def _compared(file: str, one: dict[str, Any]) -> Compared:
    rows = tuple(
        Row(
            str(change["split"]),
            int(change["tuned"]["tasks"]),
            _share(change["base"]),
            _share(change["tuned"]),
            float(change["difference"]),
            float(change["low"]),
            float(change["high"]),
            len(change["gained"]),
            len(change["lost"]),
            float(change["corrected"]),
        )
        for change in one["changes"]
    )
    return Compared(file, str(one["run"]), str(one["tasks"]), str(one["verdict"]), rows, _forgotten(one["forgetting"]))


def _scored(file: str, model: str, tasks: str, one: dict[str, Any]) -> Scored:
    every = [(f"pass@{k}", _share(rate)) for k, rate in one["pass_at"].items()]
    splits = [(f"pass@1, {split}", _share(rate)) for split, rate in one["by_split"].items() if len(one["by_split"]) > 1]
    return Scored(file, model, tasks, (*every, *splits))


def _forgotten(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    before, after, change, low, high = (float(one[key]) for key in ("base", "tuned", "difference", "low", "high"))
    return f"{before:.3f} before, {after:.3f} after: {change:+.3f} nats a token (95 % CI {low:+.3f} to {high:+.3f})"


def _share(rate: dict[str, Any]) -> Share:
    return Share(float(rate["share"]), float(rate["low"]), float(rate["high"]))
