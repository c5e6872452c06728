"""All checks at once, and the door that they open or keep shut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill

from luthier.config.keys import closest
from luthier.errors import ConfigError, Problem, RefusedError
from luthier.events.types import Checked, Event, Notice
from luthier.gate.check import Check, Subject, Verdict, warns
from luthier.gate.checks import CHECKS

BY_NAME: dict[str, Check] = {check.name: check for check in CHECKS}


def known_checks(allow: Sequence[str]) -> frozenset[str]:
    """The names of checks whose failure is taken on purpose.

    Raises:
        ConfigError: E-GATE-002, for those that no check has.
    """
    allow = [allow] if isinstance(allow, str) else allow
    strangers = [name for name in dict.fromkeys(allow) if name not in BY_NAME]
    if strangers:
        raise ConfigError(*(_unknown(name) for name in strangers))
    return frozenset(allow)


def _unknown(name: str) -> Problem:
    near = closest(name, dict.fromkeys(BY_NAME, 0.0))
    fix = f'did you mean "{near}"?' if near else f"the checks are {', '.join(BY_NAME)}"
    return Problem("E-GATE-002", f'no check "{name}"', fix, "--allow")


def explained(check: Check, width: int) -> str:
    """What a check looks for and why, for `luthier explain`."""
    return "\n\n".join(
        (f"{check.name}  {check.title}", *(fill(part, width) for part in (check.why, check.when, check.remedy)))
    )


def examine(subject: Subject, allow: frozenset[str] = frozenset()) -> tuple[Checked, ...]:
    """What each check finds, in their order; writes nothing that stays.

    Args:
        subject: What is examined.
        allow: Checks that may fail.
    """
    return tuple(_examined(check, subject, allow) for check in CHECKS)


def _examined(check: Check, subject: Subject, allow: frozenset[str]) -> Checked:
    try:
        result = check.examine(subject)
    except OSError as error:  # a file that vanished, a folder that may not be looked into
        result = warns(f"could not be looked at: {error.strerror or error}")
    if result.verdict == "passed":
        return Checked(check.name, "passed", result.found)
    verdict: Verdict = "allowed" if result.verdict == "failed" and check.name in allow else result.verdict
    remedy = check.remedy[0].lower() + check.remedy[1:].rstrip(".")
    return Checked(check.name, verdict, result.found, result.fix or remedy, result.change)


def as_events(checks: Sequence[Checked]) -> Iterator[Event]:
    """The checks as a run tells them: each for the record, and all in one line for the reader."""
    yield from checks
    yield Notice("info", f"gate: {in_words(checks)}")


def in_words(checks: Sequence[Checked]) -> str:
    """`15 checks passed, 2 warnings, 1 failed`."""
    number = {verdict: sum(check.verdict == verdict for check in checks) for verdict in ("passed", "warning")}
    said = [f"{number['passed']} checks passed"]
    if number["warning"]:
        said.append(f"{number['warning']} warning" + "s" * (number["warning"] > 1))
    said += [f"{count} {verdict}" for verdict in ("failed", "allowed") if (count := len(with_verdict(verdict, checks)))]
    return ", ".join(said)


def with_verdict(verdict: str, checks: Sequence[Checked]) -> list[Checked]:
    """The checks that ended so."""
    return [check for check in checks if check.verdict == verdict]


def refuse_failed(checks: Sequence[Checked]) -> None:
    """Keep the door shut when a check failed.

    Raises:
        RefusedError: E-GATE-001, one problem for each that failed.
    """
    if failed := with_verdict("failed", checks):
        raise RefusedError(*(_problem(check) for check in failed))


def _problem(check: Checked) -> Problem:
    key = check.change.partition(":")[0]
    fix = f"write {check.change} ({check.fix})" if check.change else check.fix
    return Problem(
        "E-GATE-001",
        f"{check.name}: {check.found}",
        f"{fix}; to start all the same: --allow {check.name}",
        key,
        BY_NAME[check.name].why.rstrip("."),
    )
