"""The diagnosis as text for a terminal, and as JSON.

    CRITICAL  The learning rate is too high  (learning-rate-too-high, confidence high)
      seen    at a learning rate of 0.4 the loss went from 3.41 (step 1) to 5.92 (step 14)
      why     The learning rate is the length of a step downhill. ...
      change  training:
              - learning_rate: 0.4
              + learning_rate: 0.0002

What stands in a log is shown as plain characters: a log can come from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from luthier.doctor.finding import Change, Finding, Rule
from luthier.errors.terminal import WIDTH, wrapped
from luthier.events.printable import one_line

INDENT = " " * 10


def as_text(found: Sequence[Finding], doubt: str, steps: int, width: int = WIDTH) -> str:
    """All findings, worst first; without any, whether the run is healthy.

    Args:
        found: The findings.
        doubt: Why a run without findings cannot be called healthy yet (`luthier.doctor.outlook`); empty: it can.
        steps: Steps seen.
        width: Columns.
    """
    if found:
        return "\n\n".join("\n".join(_finding(finding, width)) for finding in found)
    said = one_line(doubt) or f"healthy: {steps:,} steps seen"
    return wrapped(said if steps else "nothing to judge yet: no step seen", "", "  ", width)


def judged(count: int, missing: Mapping[str, str], more: str, width: int = WIDTH) -> str:
    """One line: how many rules could be judged, and the command that says why not the others; empty: all were.

    Args:
        count: Rules that apply to the run.
        missing: Rule -> what it lacks.
        more: The command.
        width: Columns.
    """
    if not missing:
        return ""
    said = f"{count - len(missing)} of {count} rules judged; {one_line(more)} says why not the others"
    return wrapped(said, "", "  ", width)


def lacking(missing: Mapping[str, str], width: int = WIDTH) -> str:
    """A line for each rule that could not be judged: what it lacks."""
    if not missing:
        return "every rule that applies could be judged"
    room = max(map(len, missing))
    rows = (wrapped(one_line(text), f"  {name:<{room}}  ", " " * (room + 4), width) for name, text in missing.items())
    return "\n".join(("rules that could not be judged, and what they lack:", *rows))


def as_json(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """One plain dict for each finding, with the fields of `Finding`."""
    return [asdict(finding) for finding in found]


def explained(rule: Rule, width: int = WIDTH) -> str:
    """What a rule looks for and what it means, for `luthier explain`."""
    lines = [f"{rule.name}  {rule.title}  ({rule.severity})", "", wrapped(rule.why, "", "", width)]
    return "\n".join((*lines, "", wrapped(rule.when, "", "", width)))


def _finding(finding: Finding, width: int) -> Iterator[str]:
    about = f"({finding.rule}, confidence {finding.confidence})"
    yield wrapped(f"{one_line(finding.title)}  {about}", f"{finding.severity.upper():<8}  ", INDENT, width)
    yield wrapped(one_line(finding.evidence), "  seen    ", INDENT, width)
    yield wrapped(finding.why, "  why     ", INDENT, width)
    if finding.fix:
        yield wrapped(one_line(finding.fix), "  fix     ", INDENT, width)
    for number, line in enumerate(changes(finding.change)):
        yield f"{INDENT if number else '  change  '}{line}"


def changes(lines: Sequence[Change]) -> Iterator[str]:
    """The lines of YAML to change, each section named once."""
    section = ""
    for change in lines:
        yield from _change(change, section)
        section = change.key.rpartition(".")[0]


def _change(change: Change, section_before: str) -> Iterator[str]:
    section, _, name = change.key.rpartition(".")
    if section and section != section_before:
        yield f"{one_line(section)}:"
    if change.old:
        yield f"- {one_line(name)}: {one_line(change.old)}"
    yield f"+ {one_line(name)}: {one_line(change.new)}"
