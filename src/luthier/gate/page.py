"""The X-ray as one page of HTML: opens from a file, loads nothing, runs nothing.

Every text of a row is escaped, and what is not to be seen is written as its escape; the page's own policy forbids
scripts and anything from elsewhere, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from luthier.events.printable import one_line, visible
from luthier.gate.screen import LEGEND
from luthier.gate.xray import Bar, Token, XRay

_STYLE = """
:root { color-scheme: light dark; --prompt: #e6e6ea; --prompt2: #d8d8de; --trained: #bfe6bf; --trained2: #a3d9a3;
  --cut: #f3bcbc; --cut2: #eaa3a3; --bar: #4a90a4; --over: #c0504d; }
@media (prefers-color-scheme: dark) { :root { --prompt: #2d2d33; --prompt2: #3a3a42; --trained: #1f5c2e;
  --trained2: #2a703b; --cut: #6b2424; --cut2: #7d3030; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1rem; margin: 2rem 0 .4rem; } h2 small { font-weight: normal; opacity: .7; }
pre { font: 13px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
.prompt { background: var(--prompt); } .prompt.b { background: var(--prompt2); }
.trained { background: var(--trained); } .trained.b { background: var(--trained2); }
.cut { background: var(--cut); text-decoration: line-through; } .cut.b { background: var(--cut2); }
.special { font-weight: bold; outline: 1px solid currentColor; outline-offset: -1px; border-radius: 3px; }
.mark { opacity: .45; } .legend span { padding: 0 .4rem; margin-right: .4rem; }
table { border-spacing: .5rem .1rem; font-variant-numeric: tabular-nums; } td:first-child { text-align: right; }
.bar { height: .9rem; background: var(--bar); } .over { background: var(--over); }
"""


def page(rows: Sequence[XRay], bars: Sequence[Bar], limit: int) -> str:
    """The whole page: what the colours mean, how long the rows are, the rows."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    legend = "".join(f'<span class="{part}">{part}</span> {escape(text)} &nbsp; ' for part, text in LEGEND.items())
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>Luthier: rows as tokens</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            "<h1>Rows as tokens</h1>",
            f'<p class="legend">{legend}<span class="special">&lt;s&gt;</span> a token of its own. '
            "Rest the pointer on a token to see its id.</p>",
            *(_row(row) for row in rows),
            f"<h2>Length of the rows in tokens <small>max_seq_length is {limit:,}</small></h2>",
            _bars(bars),
            "</body>\n</html>\n",
        )
    )


def _row(row: XRay) -> str:
    counts = ", ".join(f"{row.count(part):,} {part}" for part in LEGEND if row.count(part))
    about = f"{one_line(row.place)}: {row.why}, {row.use}. {len(row.tokens):,} tokens: {counts}"
    spans = "".join(_span(token, number) for number, token in enumerate(row.tokens))
    return f"<h2>Row {row.number:,} <small>{escape(about)}</small></h2>\n<pre>{spans}</pre>"


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
