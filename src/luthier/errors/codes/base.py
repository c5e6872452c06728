"""The shape of an explanation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Explanation:
    """What `luthier explain CODE` prints.

    Attributes:
        title: What it is, in a few words.
        why: One sentence: why it matters. Shown beside every occurrence.
        text: A few plain sentences for somebody who meets it for the first time, ending with what to do.
    """

    title: str
    why: str
    text: str
