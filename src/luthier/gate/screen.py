"""The gate on a terminal: rows as strips of tokens, lengths as bars, checks as a table. Readable without colour, too.

      prompt  <s>Below is an instruction↵          each part begins a line and has its name in front of it
     trained  def f(x):↵                           the background tells them apart as well, and its two shades one
              ␣␣␣␣return x</s>                     token from the next

Nothing of a row reaches the terminal as it is: what is not to be seen is written as its escape, and nothing is read as
markup.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from luthier.config.plan import Plan
from luthier.config.render import plan_in_words
from luthier.events.printable import one_line, visible
from luthier.events.types import Checked
from luthier.gate.gate import in_words
from luthier.gate.xray import Bar, Part, Token, XRay

STYLES: dict[Part, tuple[str, str]] = {
    "prompt": ("white on grey19", "white on grey27"),
    "trained": ("black on #86c886", "black on #a3d9a3"),
    "cut": ("white on #8b2020", "white on #a63333"),
}
LEGEND: dict[Part, str] = {
    "prompt": "read, not trained",
    "trained": "trained: its loss counts",
    "cut": "cut away, never seen",
}
_MARKS = {"passed": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "bold red"), "allowed": ("✗", "yellow")}
_MARGIN = 10
_PLAIN_WIDTH = 100
_BAR_WIDTH = 40


def show_plan(console: Console, plan: Plan) -> None:
    """Print what will happen, and what of it is worth a look."""
    console.print(Text("What will happen", "bold"))
    for line in (*plan_in_words(plan, min(console.width, _PLAIN_WIDTH)), ""):
        console.print(Text(line), soft_wrap=True)
    for warning in plan.warnings:
        for number, part in enumerate(_wrapped(warning, console.width - 4)):
            console.print(Text(f"  {'!' if not number else ' '} {part}", "yellow"), soft_wrap=True)


def show_rows(console: Console, rows: Sequence[XRay], most_lines: int | None) -> None:
    """Print rows one below the other, each with at most so many lines, and what the colours mean."""
    for row in rows:
        console.print(_head(row), soft_wrap=True)
        lines = list(strip(row.tokens, console.width))
        for line in _shortened(lines, most_lines):
            console.print(line, soft_wrap=True)
        console.print()
    legend = Text("  ")
    for part, meaning in LEGEND.items():
        legend.append(f" {part} ", STYLES[part][0]).append(f" {meaning}   ", "dim")
    console.print(legend, soft_wrap=True)
    marks = "↵ line break   ⇥ tab   · space at the end of a line   \\x1b not to be seen"
    special = Text.assemble("   ", ("special", "bold underline"), (f"  a token of its own   {marks}", "dim"))
    console.print(special, soft_wrap=True)


def _head(row: XRay) -> Text:
    counts = [f"{row.count(part):,} {part}" for part in LEGEND if row.count(part)]
    text = Text.assemble((row.title, "bold"), f"  {one_line(row.place)}  ", (f"{row.why}, {row.use}", "dim"))
    return text.append(f"  {len(row.tokens):,} tokens: {', '.join(counts)}")


def strip(tokens: Sequence[Token], width: int) -> Iterator[Text]:
    """Lines of at most `width` cells, each part of the row on lines of its own."""
    room = max(width - _MARGIN - 1, 20)
    line, used, part = Text(), 0, ""
    after = _texts_after(tokens)
    for number, token in enumerate(tokens):
        if token.part != part:
            if used:
                yield line
            part = token.part
            line, used = Text(f"{part:>{_MARGIN - 2}}  ", "dim"), 0
        style = STYLES[token.part][number % 2] + " bold underline" * token.special
        for shown, breaks in _shown(token.text, after[number]):
            if used + cell_len(shown) > room:
                yield line
                line, used = Text(" " * _MARGIN), 0
            line.append(shown, style)
            used += cell_len(shown)
            if breaks:
                yield line
                line, used = Text(" " * _MARGIN), 0
    if used:
        yield line


def _texts_after(tokens: Sequence[Token]) -> list[str]:
    """For each token the text that follows it: of a letter in several tokens only the last has one."""
    texts, following = [""] * len(tokens), ""
    for number in reversed(range(len(tokens))):
        texts[number] = following
        following = tokens[number].text or following
    return texts


def _shown(text: str, after: str) -> Iterator[tuple[str, bool]]:
    """Each character as it is shown, and whether the line ends after it.

    Args:
        text: Of one token.
        after: That follows.
    """
    for at, char in enumerate(text):
        following = (text + after)[at + 1 : at + 2]
        if char == "\n":
            yield "↵", True
        elif char == "\t":
            yield "⇥   ", False
        elif char == " " and following in ("", "\n"):
            yield "·", False
        else:
            yield visible(char), False


def _shortened(lines: list[Text], most: int | None) -> Iterator[Text]:
    """The beginning and the end; the end says whether the row stops as it should."""
    if most is None or len(lines) <= most:
        yield from lines
        return
    first = most * 2 // 3
    yield from lines[:first]
    yield Text(f"{' ' * _MARGIN}... {len(lines) - most:,} more lines ...", "dim italic")
    yield from lines[first - most :]


def show_lengths(console: Console, bars: Sequence[Bar], limit: int) -> None:
    """Print how long the rows are, as bars."""
    console.print(Text.assemble(("Length of the rows in tokens", "bold"), (f"  max_seq_length is {limit:,}", "dim")))
    most = max(bar.rows for bar in bars)
    width = len(f"{bars[-1].high:,}")
    for bar in bars:
        cells = round(_BAR_WIDTH * bar.rows / most) or int(bar.rows > 0)
        line = Text(f"  {bar.low:>{width},} - {bar.high:>{width},}  ")
        line.append("█" * cells, "red" if bar.over else "cyan").append(f" {bar.rows:,}" if bar.rows else "")
        console.print(line.append("  too long" if bar.over and bar.rows else "", "dim"))


def show_checks(console: Console, checks: Sequence[Checked]) -> None:
    """Print what each check found, and what to do where it did not pass."""
    console.print(Text("Checks", "bold"))
    width = max(len(check.name) for check in checks)
    indent = width + 6
    for check in checks:
        mark, color = _MARKS[check.verdict]
        line = Text.assemble("  ", (mark, color), f" {check.name:<{width}}  ")
        first, *rest = _wrapped(check.found, console.width - indent)
        console.print(line.append(first), soft_wrap=True)
        for part in rest:
            console.print(Text(" " * indent + part), soft_wrap=True)
        if check.verdict != "passed":
            for label, text in (("fix", check.fix), ("change", check.change)):
                for number, part in enumerate(_wrapped(text, console.width - indent - 8) if text else []):
                    head = label if not number else ""
                    console.print(
                        Text.assemble(f"{' ' * indent}", (f"{head:<8}", "dim"), (part, "bold")), soft_wrap=True
                    )
    console.print(Text(f"  {in_words(checks)}", "dim"))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(one_line(text), max(width, 30), break_on_hyphens=False) or [""]
