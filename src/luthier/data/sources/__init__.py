"""Where rows come from: local files and the Hugging Face hub, as one stream of (place, row).

    open_source(DatasetSource) -> RowSource -> rows(): ("train.jsonl:17", {"instruction": ..., "output": ...})

Not covered: what the columns mean (`luthier.data.formats`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from luthier.config.schema import DataSection, DatasetSource
from luthier.data.problems import Problems, refuse
from luthier.data.sources.files import SUFFIXES, LocalSource, nearest
from luthier.data.sources.hub import open_hub
from luthier.errors import DataError, Problem

Row = dict[str, Any]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

__all__ = ["Row", "RowSource", "open_source", "unopened"]


class RowSource(Protocol):
    """One opened source.

    Attributes:
        name: As the user wrote it.
        split: The split or slice that is read.
        fingerprint: Changes when any byte of the rows, their places or the slice changes.
        contents: File -> SHA-256 of its bytes; for a hub dataset, the fingerprint that `datasets` gives it.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def split(self) -> str: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    @property
    def contents(self) -> dict[str, str]: ...  # noqa: D102

    def rows(self, problems: Problems) -> Iterator[tuple[str, Row]]:
        """Stream (place, row); rows that cannot be parsed go to `problems` and are not yielded."""
        ...


def open_source(source: DatasetSource, split: str, base_dir: Path) -> RowSource:
    """Find a source and make sure that it can be read.

    Args:
        source: The entry of `data.datasets`.
        split: Split or slice, as in `train[:500]`.
        base_dir: Folder that relative paths start from.

    Raises:
        DataError: Nothing there, not readable, or no such split.
    """
    path = base_dir / Path(source.path).expanduser()
    try:
        here = path.exists() or path.is_symlink()
    except (OSError, ValueError) as error:
        found = f"no path can look like this ({getattr(error, 'strerror', None) or error})"
        raise refuse("E-DATA-001", found, "correct data.datasets[].path", source.path[:200]) from error
    if here:
        return LocalSource(path, source.path, split)
    looks_local = source.path.startswith((".", "/", "~")) or Path(source.path).suffix.lower() in SUFFIXES
    if looks_local or not _HUB_ID.fullmatch(source.path):
        guess = nearest(path)
        fix = f"did you mean {guess}?" if guess else "give the path of a file or folder, or a hub id (owner/name)"
        raise refuse("E-DATA-001", "no such file or folder", fix, source.path)
    return open_hub(source, split)


def unopened(data: DataSection, base_dir: Path) -> Iterator[Problem]:
    """What keeps the sources of a config from being read; no row is."""
    for source in data.datasets:
        try:
            open_source(source, source.split, base_dir)
        except DataError as error:
            yield from error.problems
