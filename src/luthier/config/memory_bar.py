"""The forecast of memory as text: a stacked bar of its parts, its share of what is free, and a line for each part.

Parts are told apart by marks, not by colour.
"""

from __future__ import annotations

import textwrap

from luthier.config.plan import Memory

_MARKS = "123456789abcdef"
_NAME, _BAR = 14, 74


def memory_bar(memory: Memory, width: int) -> list[str]:
    """Lines of at most `width` columns, at least 60."""
    room = max(20, min(_BAR, width - 26))
    share = memory.gib / memory.room_gib if memory.room_gib > 0 else float("inf")
    moment = f"in a pass of {memory.tokens:,} tokens" if memory.moment == "a step" else f"while {memory.moment}"
    head = f"{memory.gib:.2f} GiB at the fullest moment, {moment}; {memory.room_gib:.1f} GiB are there."
    head += "" if share <= 1 else " It does not fit."
    lines = textwrap.wrap(head, width, initial_indent="  ", subsequent_indent="  ")
    lines.append(f"  {_stacked(memory, room)}")
    used = min(room, max(1, round(min(share, 1.0) * room)))
    lines.append(f"  {'#' * used}{'.' * (room - used)}  {share:.0%} of what is there")
    for mark, part in zip(_MARKS, memory.parts, strict=False):
        text = f"  {mark} {part.name:<{_NAME}}{part.gib:>7.3f} GiB  {part.how}"
        lines += textwrap.wrap(text, width, subsequent_indent=" " * (17 + _NAME), drop_whitespace=True)
    return lines


def _stacked(memory: Memory, room: int) -> str:
    """Each part's mark, as often as its share says; the ends are rounded, so that the sum is always `room`."""
    text, before = "", 0.0
    for mark, part in zip(_MARKS, memory.parts, strict=False):
        before += part.gib
        text += mark * (round(before / memory.gib * room) - len(text))
    return text
