"""Text that every Python installation has: the functions of its standard library.

Each function and method is parsed and written again by `ast.unparse`, so that one style of code comes out: no
comments, four spaces, single quotes. The text differs a little between Python versions; the model card names the one
that was used.

Not covered: tests of the library, packages that are not part of Python.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections import Counter
from collections.abc import Iterable

from luthier.bench.base import library_functions

SHORTEST, LONGEST = 80, 1800  # characters
_LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3"}
_WORD = re.compile(r"(?<![A-Za-z])[a-z]{3,10}(?![A-Za-z])")


def functions() -> list[str]:
    """Source of the library's functions, each once, in the order of files and lines."""
    sources = (ast.unparse(node) for node in library_functions(_LEFT_OUT))
    return list(dict.fromkeys(text for text in sources if SHORTEST <= len(text) <= LONGEST))


def words(sources: Iterable[str], at_least: int = 4) -> list[str]:
    """Words that occur in so many of the sources, for made-up names; sorted."""
    counts = Counter(word for text in sources for word in set(_WORD.findall(text)))
    return sorted(word for word, count in counts.items() if count >= at_least and not keyword.iskeyword(word))
