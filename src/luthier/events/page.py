"""Pages of HTML: they are read in light, in dark and on paper, and take nothing from elsewhere.

A page that opens from a file loads nothing and runs nothing. One that a server gives out may have one script of that
server's own, and without scripts it loads itself again.

Every text from outside goes through `text` or `lines`: secrets in it are hidden, it is escaped, and what is not to be
seen is taken out or written as its escape. The page's own policy forbids scripts in its text and anything from
elsewhere, too.

Not covered: what stands on a page; that is the matter of the room that it tells of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from luthier.errors.secrets import hide
from luthier.events.printable import one_line, visible

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
LIVE_POLICY = f"{POLICY}; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"
"""Of a page with a script of its own server, which asks that server."""
_RELOAD_SECONDS = 5
STYLE = """
:root { color-scheme: light dark; --good: #1a7f37; --bad: #b42318; --line: #d0d7de; --soft: #f3f4f6; }
@media (prefers-color-scheme: dark) { :root { --good: #5cc97b; --bad: #ff8f84; --line: #3a404a; --soft: #23262d; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.1rem; margin: 2.4rem 0 .4rem; } h3 { font-size: .95rem; margin: 1.4rem 0 .3rem; }
h3 small, h2 small { font-weight: normal; opacity: .7; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { opacity: .7; } dd { margin: 0; }
pre { font: 13px/1.6 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0 0;
  background: var(--soft); padding: .6rem; border-radius: 4px; }
.good { color: var(--good); } .bad { color: var(--bad); }
"""


def page(title: str, style: str, body: Iterable[str], script: str = "") -> str:
    """The whole page.

    Args:
        title: Of the window; escaped here.
        style: CSS beside that of all pages.
        body: HTML, escaped already.
        script: Where the page's server has the one script that keeps it up to date; empty: no script, from anywhere.
    """
    policy, live = POLICY, ""
    if script:
        reload = f'<noscript><meta http-equiv="refresh" content="{_RELOAD_SECONDS}"></noscript>'
        policy, live = LIVE_POLICY, f'{reload}\n<script src="{text(script)}" defer></script>\n'
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            f'{live}<meta name="viewport" content="width=device-width">',
            f"<title>{text(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>",
            *body,
            "</body>\n</html>\n",
        )
    )


def text(words: object) -> str:
    """Any text on one line."""
    return escape(one_line(hide(str(words))))


def lines(words: str) -> str:
    """Text with its line breaks and tabs; all else that is not to be seen as its escape."""
    return "".join(char if char in "\n\t" else escape(visible(char)) for char in hide(words).replace("\r\n", "\n"))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Names, each with a text beside it; both are escaped here."""
    return f"<dl>{''.join(f'<dt>{text(name)}</dt><dd>{text(words)}</dd>' for name, words in pairs)}</dl>"
