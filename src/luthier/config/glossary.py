"""The field's words, each in a few sentences: what `luthier explain WORD` tells and the glossary page lists.

Keys, numbers of the log, error codes, rules and checks have texts of their own; here is what stands in those texts.
"""

from __future__ import annotations

from luthier.config.words.a_to_l import A_TO_L
from luthier.config.words.m_to_z import M_TO_Z

TERMS = A_TO_L | M_TO_Z


def find(word: str) -> str | None:
    """The name of the term that a word means, whatever its case, hyphens and plural; None: there is none."""
    names = {_plain(name): name for name in TERMS}
    for name, term in TERMS.items():
        names |= {_plain(other): name for other in term.also}
    wanted = _plain(word)
    return names.get(wanted) or names.get(wanted.removesuffix("s"))


def _plain(word: str) -> str:
    return " ".join(word.lower().replace("_", " ").replace("-", " ").split())
