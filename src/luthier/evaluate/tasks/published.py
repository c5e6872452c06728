"""Rows of a published set: the user's file, or else the hub's copy in the same columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from luthier.config.schema import DatasetSource
from luthier.data.problems import Problems
from luthier.data.sources.hub import open_hub
from luthier.errors import DataError, Problem
from luthier.evaluate.tasks.local import read_lines


def lines_of(name: str, path: Path | None, source: DatasetSource, splits: Sequence[str], home: str) -> list[str]:
    """One JSON object a line.

    Args:
        name: Of the set, as the user writes it.
        path: The user's file; None: the hub.
        source: Where the set lies on the hub.
        splits: Those to read there.
        home: Page that the file can be downloaded from.

    Raises:
        DataError: E-EVAL-021 when the file cannot be read, E-EVAL-024 when the hub does not give the set.
    """
    fix = f"download it from {home} and write --tasks {name}=FILE"
    if path is not None:
        return read_lines(path, fix)
    try:
        opened = [open_hub(source, split) for split in splits]
        return [json.dumps(row) for part in opened for _, row in part.rows(Problems())]
    except DataError as error:
        found = f"{source.path} cannot be had from the hub: {error.problems[0].found}"
        raise DataError(Problem("E-EVAL-024", found, fix, name)) from error
