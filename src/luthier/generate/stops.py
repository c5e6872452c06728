"""Stop strings in text that comes in pieces: the answer ends before the first of them, wherever tokens begin and end.

    stop "END"    pieces  "a E" "N" "D b"      passed on  "a " "" "" and it is over
                  pieces  "a E" "N" "J b"      passed on  "a " "" "ENJ b"

What could be the beginning of a stop string is held back until the text says whether it is one.
"""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Takes pieces of one text.

    Args:
        strings: Stop strings, none of them empty; of several, the one that is complete first counts.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""

    def take(self, piece: str) -> tuple[str, bool]:
        """The text that can be passed on now, and whether a stop string has come, which begins behind it."""
        text = self._held + piece
        found = [(start + len(string), start) for string in self._strings if (start := text.find(string)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        held = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def rest(self) -> str:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """How many characters at the end of `text` begin `string`."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
