"""One word of the field."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One word.

    Attributes:
        text: What it means.
        see: Topics of `luthier explain` that belong to it.
        page: The page of the guide that tells more, as a path in docs/; empty: none.
        also: Other names of it.
    """

    text: str
    see: tuple[str, ...] = ()
    page: str = ""
    also: tuple[str, ...] = ()
