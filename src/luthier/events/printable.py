"""Text from outside (generated, or from a dataset or a file name) made safe to show.

A model can write anything, also the bytes that recolour a terminal, rename its window or turn text around. What
remains here is text: no control or formatting characters, no lone surrogates (which no file can encode); every kind
of space is the plain one.

Not covered: the markup of the place where it is shown (Markdown fences, rich markup); that is the sink's.
"""

from __future__ import annotations

import unicodedata

from luthier.config.outputs import FINAL

_BREAKS = str.maketrans({"\r": "\n", "\u2028": "\n", "\u2029": "\n", "\x85": "\n", "\t": "    "})
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn"}


def printable(text: str) -> str:
    """`text` with plain line breaks, tabs as four spaces, and without characters that are not to be seen."""
    lines = text.replace("\r\n", "\n").translate(_BREAKS)
    return "".join(_shown(char) for char in lines)


def _shown(char: str) -> str:
    category = unicodedata.category(char)
    if char == "\n" or category not in _UNSAFE:
        return " " if category == "Zs" else char
    return ""


def visible(char: str) -> str:
    """One character, so that it is seen: one that is not to be shown as the escape that Python writes for it."""
    return ascii(char)[1:-1] if unicodedata.category(char) in _UNSAFE or char in "\u2028\u2029" else char


def short_name(place: str) -> str:
    """What a model is called: the last part of its path or hub id; of a run's final_model the run."""
    return one_line(place).rstrip("/").removesuffix(f"/{FINAL}").rsplit("/", 1)[-1]


def one_line(text: str) -> str:
    """The same, on one line."""
    return " ".join(printable(text).split())


def beginning(text: str) -> str:
    """The same, cut after 60 characters."""
    line = one_line(text)
    return line if len(line) <= 60 else f"{line[:60].rstrip()}..."
