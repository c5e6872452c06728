"""The X-ray as one page of HTML: opens from a file, loads nothing, runs nothing.

Every text of a row is escaped, and what is not to be seen is written as its escape (`luthier.events.page`).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from luthier.events.page import page as document
from luthier.events.printable import one_line, visible
from luthier.gate.screen import LEGEND
from luthier.gate.xray import Bar, Token, XRay

_STYLE = """
:root { --prompt: #e6e6ea; --prompt2: #d8d8de; --trained: #bfe6bf; --trained2: #a3d9a3;
  --cut: #f3bcbc; --cut2: #eaa3a3; --bar: #4a90a4; --over: #c0504d; }
@media (prefers-color-scheme: dark) { :root { --prompt: #2d2d33; --prompt2: #3a3a42; --trained: #1f5c2e;
  --trained2: #2a703b; --cut: #6b2424; --cut2: #7d3030; } }
pre { line-height: 1.7; margin: 0; padding: 0; background: none; }
.prompt { background: var(--prompt); } .prompt.b { background: var(--prompt2); }
.trained { background: var(--trained); } .trained.b { background: var(--trained2); }
.cut { background: var(--cut); text-decoration: line-through; } .cut.b { background: var(--cut2); }
.special { font-weight: bold; outline: 1px solid currentColor; outline-offset: -1px; border-radius: 3px; }
.mark { opacity: .45; } .legend span { padding: 0 .4rem; margin-right: .4rem; }
td { padding: .1rem .5rem; border: 0; } td:first-child { text-align: right; } td:last-child { text-align: left; }
.bar { height: .9rem; background: var(--bar); } .over { background: var(--over); }
"""


def page(rows: Sequence[XRay], bars: Sequence[Bar], limit: int) -> str:
    """The whole page: what the colours mean, how long the rows are, the rows."""
    legend = "".join(f'<span class="{part}">{part}</span> {escape(text)} &nbsp; ' for part, text in LEGEND.items())
    body = (
        "<h1>Rows as tokens</h1>",
        f'<p class="legend">{legend}<span class="special">&lt;s&gt;</span> a token of its own. '
        "Rest the pointer on a token to see its id.</p>",
        *(_row(row) for row in rows),
        f"<h2>Length of the rows in tokens <small>max_seq_length is {limit:,}</small></h2>",
        _bars(bars),
    )
    return document("Luthier: rows as tokens", _STYLE, body)


def _row(row: XRay) -> str:
    counts = ", ".join(f"{row.count(part):,} {part}" for part in LEGEND if row.count(part))
    about = f"{one_line(row.place)}: {row.why}, {row.use}. {len(row.tokens):,} tokens: {counts}"
    spans = "".join(_span(token, number) for number, token in enumerate(row.tokens))
    return f"<h2>{row.title.capitalize()} <small>{escape(about)}</small></h2>\n<pre>{spans}</pre>"


def _span(token: Token, number: int) -> str:
    classes = token.part + " b" * (number % 2) + " special" * token.special
    text = "".join(_shown(char) for char in token.text)
    return f'<span class="{classes}" title="{token.id}">{text}</span>'


def _shown(char: str) -> str:
    if char == "\n":
        return '<span class="mark">↵</span>\n'
    return '<span class="mark">⇥</span>\t' if char == "\t" else escape(visible(char))


def _bars(bars: Sequence[Bar]) -> str:
    most = max(bar.rows for bar in bars)
    rows = (
        f'<tr><td>{bar.low:,} - {bar.high:,}</td><td style="width: 30rem"><div class="bar{" over" * bar.over}" '
        f'style="width: {100 * bar.rows / most:.1f}%"></div></td><td>{bar.rows:,}</td></tr>'
        for bar in bars
    )
    return f"<table>{''.join(rows)}</table>"
