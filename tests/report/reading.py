"""Reading a report back: its figures as numbers, its tables as rows, and whether it is a page that is safe to open."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

VOID = {"meta", "wbr"}


def figure(page: str, title: str) -> str:
    """The figure whose y axis counts this."""
    return next(part for part in re.findall(r"<figure>.*?</figure>", page, re.S) if f'aria-label="{title}' in part)


def axis(drawn: str) -> tuple[float, float]:
    """(value at y = 0, change of the value for a y) of a linear axis, by two of its labels."""
    found = re.findall(r'y="([\d.]+)" text-anchor="end">([-\d.,e]+)<', drawn)
    (y1, v1), (y2, v2) = [(float(y) - 4, float(v.replace(",", ""))) for y, v in (found[0], found[-1])]
    slope = (v2 - v1) / (y2 - y1)
    return v1 - slope * y1, slope


def curve(drawn: str, kind: str) -> list[float]:
    """The values of a line, from where its points lie."""
    at_zero, slope = axis(drawn)
    pieces = re.findall(rf'<polyline class="line {kind}" points="([^"]+)"', drawn)
    return [at_zero + slope * float(point.split(",")[1]) for piece in pieces for point in piece.split()]


def rows(page: str) -> list[tuple[str, ...]]:
    """The rows of all tables, as plain text."""
    found = re.findall(r"<tr>(<td>.*?)</tr>", page, re.S)
    return [tuple(plain(cell) for cell in re.findall(r"<td>(.*?)</td>", row, re.S)) for row in found]


def plain(part: str) -> str:
    """HTML without its tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", part)).strip()


def insist_safe(page: str) -> None:
    """Nothing is loaded, nothing runs, nothing invisible stands in it, and each element is closed."""
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    assert not re.search(
        r"<(script|img|link|iframe|object|embed|a)\b|<[^>]*\s(src|href|on\w+)=|@import|url\(", page, re.I
    )
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028]", page)
    reader = _Closed()
    reader.feed(page)
    assert reader.open == []


class _Closed(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
