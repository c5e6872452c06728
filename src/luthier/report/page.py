"""A run as one page of HTML, in the order in which a reader asks.

Not covered: several runs (`several`).
"""

from __future__ import annotations

from luthier.events.page import page as document
from luthier.events.page import text
from luthier.report import curves, sections
from luthier.report.run import Run
from luthier.report.words import came_out, done, verdict
from luthier.version import __version__

STYLE = (
    curves.STYLE
    + """
.summary { border-left: 4px solid var(--line); padding: .4rem .8rem; background: var(--soft); }
.summary p { margin: .3rem 0; } .done { border-color: var(--good); } .failed { border-color: var(--bad); }
.wide { overflow-x: auto; } dd, dt, li { overflow-wrap: anywhere; } th { white-space: nowrap; }
.wide table { min-width: 34rem; } .words td, .words th { text-align: left; }
td { vertical-align: top; max-width: 26rem; overflow-wrap: break-word; }
.words td + td { overflow-wrap: anywhere; } .words td:first-child { white-space: nowrap; }
.samples { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .8rem; }
.finding { border-left: 4px solid var(--line); padding-left: .8rem; } .finding h3 { margin-top: .6rem; }
.critical, .warning { border-color: var(--bad); }
.key { width: 18px; min-width: 0; height: 8px; display: inline-block; } .unknown, footer { opacity: .8; }
footer { margin-top: 3rem; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin: 0 0 .4rem 1rem; }
  .wide table { min-width: 0; } }
@media screen and (max-width: 48rem) { .words table, .words thead, .words tbody { display: block; min-width: 0; }
  .words tr { display: flex; flex-wrap: wrap; padding: .25rem 0; border-bottom: 1px solid var(--line); }
  .words tr > * { flex: 1 1 0; min-width: 0; max-width: none; padding-block: 0; border: 0; overflow-wrap: anywhere; }
  .words tr > :first-child { flex-basis: 100%; font-weight: bold; } .words tr > :nth-child(n) { white-space: normal; } }
@media print { body { margin: 0; max-width: none; font-size: 11px; } .wide, figure { overflow: visible; }
  svg { min-width: 0; } section, figure, tr, .samples > div { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""
)


def page(run: Run, now: float) -> str:
    """The whole page.

    Args:
        run: Not an empty one.
        now: Epoch seconds.
    """
    chapters = (
        ("What was asked for", sections.asked(run), "words"),
        ("Rows", sections.rows(run), "words"),
        ("The curve", f"{_curve(run)}\n{sections.evaluations(run)}", ""),
        ("What it wrote", sections.samples(run), ""),
        ("What the doctor says", sections.diagnosis(run, now), ""),
        ("Predicted, and taken", sections.forecasts(run, now), ""),
        ("Attempts", sections.attempts(run), "words"),
        ("Is it better than its base?", sections.measured(run), ""),
        ("Do it again", sections.repeat(run), ""),
    )
    status = run.state.finished.status if run.state.finished else "training"
    summary = f"<p>{text(done(run))} {text(came_out(run))}</p>\n<p>{text(verdict(run))}</p>"
    body = [
        f"<h1>{text(run.state.run or run.name)}</h1>",
        f'<div class="summary {status}">{summary}</div>',
        *(
            f'<h2 id="{_id(title)}">{title}</h2>\n<div class="wide {kind}">{html}</div>'
            for title, html, kind in chapters
        ),
        f"<footer><p>Read from {text(run.path)} ({text(run.source)}) by Luthier {text(__version__)}.</p></footer>",
    ]
    return document(f"{run.state.run or run.name}: report", STYLE, body)


def _id(title: str) -> str:
    return "-".join(word for word in "".join(c if c.isalpha() else " " for c in title.lower()).split())


def _curve(run: Run) -> str:
    thinned = run.state.stride
    said = f"<p>One of {thinned} log lines is drawn.</p>" if thinned > 1 else ""
    return ("\n".join(curves.figures(run.state)) or sections.unknown("No log line with a number was written.")) + said
