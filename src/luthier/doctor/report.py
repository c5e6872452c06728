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
from luthier.doctor.rules import DECISIVE
from luthier.errors.terminal import WIDTH, wrapped
from luthier.events.printable import one_line

INDENT = " " * 10


def as_text(found: Sequence[Finding], missing: Mapping[str, str], steps: int, width: int = WIDTH) -> str:
    """All findings, worst first, and what could not be judged.

    Args:
        found: The findings.
        missing: Rule -> what it lacks.
        steps: Steps seen.
        width: Columns.
    """
    blocks = ["\n".join(_finding(finding, width)) for finding in found]
    if not found:
        said = unsettled(missing) or f"healthy: {steps:,} steps seen"
        blocks.append(wrapped(said if steps else "nothing to judge yet: no step seen", "", "  ", width))
    if missing:
        rules = ", ".join(f"{name} ({one_line(text)})" for name, text in missing.items())
        blocks.append(wrapped(f"rules that could not be judged: {rules}", "", "  ", width))
    return "\n\n".join(blocks)


def unsettled(missing: Mapping[str, str]) -> str:
    """Why a run in which nothing was found cannot be called healthy yet; empty when it can.

    Args:
        missing: Rule -> what it lacks.
    """
    lacking = ", ".join(f"{name} ({one_line(missing[name])})" for name in DECISIVE if name in missing)
    return f"nothing found that is wrong, but too little seen to judge the loss: {lacking}" if lacking else ""


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
