"""What of an answer is code.

The rule, the same for every model:

1. If the answer has a line that begins with three backticks or more (up to three spaces before them), the code is what
   follows that line, up to the next line that is only such a fence of at least the same length, or to the end.
2. Otherwise the whole answer is the code.

Nothing is repaired: no prose is dropped, no indentation is mended, no import is added, and only the first block
counts. So a model that writes words around its code without a fence fails, and that is a fact about the model.

Source of rule 1: fenced code blocks of CommonMark 0.31, chapter 4.5. Not covered: fences of tildes.
"""

from __future__ import annotations

import re

_FENCE = re.compile(r"^ {0,3}(?P<ticks>`{3,})(?P<rest>[^`]*)$")


def code_of(answer: str) -> str:
    """The code in an answer, by the rule above."""
    lines = answer.replace("\r\n", "\n").split("\n")
    for start, line in enumerate(lines):
        opening = _FENCE.match(line)
        if opening is None:
            continue
        for end in range(start + 1, len(lines)):
            closing = _FENCE.match(lines[end])
            if closing and not closing["rest"].strip() and len(closing["ticks"]) >= len(opening["ticks"]):
                return "\n".join(lines[start + 1 : end])
        return "\n".join(lines[start + 1 :])
    return answer
