"""Tests of a row: assert statements whose inputs are chosen so that likely wrong answers fail.

Expected results come from the family's `expect`, which is written another way than its code. Of many drawn inputs those
are taken that together tell the right answer from its rivals: the same task with another value in one slot, the
family's own rivals, other tasks on the same arguments, and the argument itself.

Not covered: running the code (see `verify`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any

from rows.shapes import Family

MOST, USUAL, FEWEST, TRIES = 5, 4, 3, 60
LONGEST = 150


class UnclearError(Exception):
    """No small set of tests tells this row from its rivals."""


@dataclass(frozen=True)
class Rival:
    """A wrong answer, computed as `Family.expect` is."""

    expect: Callable[..., Any]
    values: SimpleNamespace
    must_fail: bool = True


def outcome(expect: Callable[..., Any], p: SimpleNamespace, args: Sequence[Any]) -> tuple[str, Any]:
    """What a call gives: ("value", result) or ("raises", "name: message")."""
    try:
        return "value", expect(p, *copy.deepcopy(args))
    except Exception as error:
        return "raises", f"{type(error).__name__}: {error}"


def written(name: str, args: Sequence[Any], result: tuple[str, Any]) -> str:
    """The test: an assert, or for an exception a try block around one."""
    call = f"{name}({', '.join(map(repr, args))})"
    kind, value = result
    if kind == "value":
        return f"assert {call} {'is' if value is None else '=='} {value!r}"
    error, _, text = value.partition(": ")
    return (
        f"try:\n    {call}\nexcept {error} as error:\n    assert str(error) == {text!r}\nelse:\n"
        f"    assert False, 'no {error}'"
    )


def choose(
    family: Family, p: SimpleNamespace, rivals: Sequence[Rival], season: list[Any], name: str, rng: Random
) -> list[str]:
    """Three to five tests.

    Args:
        family: The task.
        p: The slots' values of this row.
        rivals: Wrong answers.
        season: Literals of this row, near which inputs are interesting.
        name: The function's name.
        rng: Where inputs come from.

    Raises:
        UnclearError: A rival that must fail, or a constant, passes all tests that were tried.
    """
    unmet = set(range(len(rivals)))
    chosen: dict[str, tuple[str, Any]] = {}
    spare: dict[str, tuple[str, Any]] = {}
    for _ in range(TRIES):
        args = family.inputs(rng, p) if family.inputs else tuple(arg.sample(rng, season) for arg in family.args)
        right = outcome(family.expect, p, args)
        line = written(name, args, right)
        if (right[0] == "raises" and not family.raises) or line in chosen or line in spare or len(line) > LONGEST:
            continue
        caught = {i for i in unmet if outcome(rivals[i].expect, rivals[i].values, args) != right}
        if caught and (len(chosen) < MOST - 1 or caught == unmet):
            chosen[line] = right
            unmet -= caught
        else:
            spare[line] = right
        if not unmet and len(chosen) + len(spare) >= 12:
            break
    if any(rivals[i].must_fail for i in unmet) or len(chosen) + len(spare) < FEWEST:
        raise UnclearError(f"{family.name}: {p}: wrong answers pass all tests")
    tests = _filled_up(chosen, spare)
    if len({repr((chosen | spare)[line]) for line in tests}) == 1:
        raise UnclearError(f"{family.name}: {p}: a constant passes all tests")
    return tests


def _filled_up(chosen: dict[str, Any], spare: dict[str, Any]) -> list[str]:
    """The chosen tests and some more, those with a result not seen so far first."""
    results = {repr(result) for result in chosen.values()}
    lines = list(chosen)
    more = sorted(spare, key=len)
    while more and len(lines) < max(USUAL, min(MOST, len(chosen) + 1)):
        line = next((line for line in more if repr(spare[line]) not in results), more[0])
        more.remove(line)
        lines.append(line)
        results.add(repr(spare[line]))
    return lines
