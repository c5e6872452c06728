"""What was verified as a table with its verdict, and as JSON."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict
from typing import Any

from luthier.errors.secrets import hide
from luthier.errors.terminal import width
from luthier.events.printable import one_line
from luthier.export.screen import table as agreement_table
from luthier.verify.compare import Quantity
from luthier.verify.merge import MergeVerified
from luthier.verify.resume import Verified

_LONGEST_NAME = 32
_UNITS = {
    "loss": "steps", "learning rate": "steps", "gradient norm": "steps", "eval loss": "evaluations",
    "counters": "values",
}  # fmt: skip


def as_json(verified: Verified) -> dict[str, Any]:
    """Plain data; `equal` is the verdict."""
    return {"equal": verified.comparison.equal, **asdict(verified)}


def table(verified: Verified) -> str:
    """Each quantity with its largest difference, then what that means."""
    comparison = verified.comparison
    lines = [f"{'':20} {'largest difference':>18}", *(_line(quantity) for quantity in comparison.quantities)]
    others = [step for step, same in comparison.rows.items() if not same]
    rows = f"NOT the same, seen at step {others[0]}" if others else "the same in every step"
    lines += [f"{'rows that trained':20} {rows}", "", *textwrap.wrap(verdict(verified), width())]
    return "\n".join(lines)


def _line(quantity: Quantity) -> str:
    unit = _UNITS.get(quantity.name, "tensors")
    if quantity.compared == 1:
        unit = unit.removesuffix("s")
    if not quantity.compared:
        return f"{quantity.name:20} {'-':>18}"
    first = quantity.first if len(quantity.first) <= _LONGEST_NAME else f"...{quantity.first[-_LONGEST_NAME:]}"
    differs = "" if quantity.same else f"first in {first}"
    largest = f"{quantity.largest:.3g}" if math.isfinite(quantity.largest) else "missing"
    return f"{quantity.name:20} {largest:>18}   {quantity.compared} {unit}   {differs}".rstrip()


def verdict(verified: Verified) -> str:
    """One paragraph: equal or not, and what explains it."""
    run = (
        f"The run that was killed with SIGKILL after step {verified.killed_after} and went on from "
        f"checkpoint-{verified.resumed_from}"
    )
    if verified.comparison.equal:
        return f"{run} is the straight one, bit for bit: what it trained, on which rows, and how it would go on."
    wrong = [quantity.name for quantity in verified.comparison.quantities if not quantity.same]
    wrong += ["rows that trained"] * (not all(verified.comparison.rows.values()))
    text = f"{run} is NOT the straight one: {', '.join(wrong)} differ. "
    if verified.surroundings:
        return text + "The run itself says why. " + " ".join(verified.surroundings)
    if verified.repeatable is False:
        return (
            text + "The straight run, repeated, is not the same as itself either: the arithmetic of this machine is "
            "not repeatable (some GPU kernels add in any order). A resume goes on correctly here, up to rounding, "
            "and cannot be exact."
        )
    return (
        text + "The straight run, repeated, is the same as itself, so it is the resume that loses something. Please "
        "report it with this table and the config."
    )


def merge_table(verified: MergeVerified) -> str:
    """A merged model beside its run, then what that means."""
    lines = [f"compared on {verified.prompts}", "", agreement_table(verified.agreements)]
    ids = (
        f"{verified.same_ids} of {verified.tried_ids} prompts have the ids that the saved tokenizers give by themselves"
    )
    wrong = [one.name for one in verified.agreements if not one.passed]
    wrong += ["prompt ids"] * (verified.same_ids < verified.tried_ids)
    said = f"{verified.merged} is the run that was trained, and others read the run as Luthier does."
    if verified.onto_files:
        said = (
            f"{verified.merged} is the run's adapter on the weights in the base's files, as --onto files asks for, not "
            "on those that it was trained on. Others read the run as Luthier does."
        )
    if wrong:
        said = f"NOT the same beyond what rounding does: {', '.join(wrong)}. See: luthier explain E-EXPORT-002"
    return hide("\n".join([*lines, "", ids, "", *textwrap.wrap(one_line(said), width())]))


def merge_as_json(verified: MergeVerified) -> dict[str, Any]:
    """Plain data; `passed` is the verdict."""
    content = asdict(verified) | {"agreements": [one.as_dict() for one in verified.agreements]}
    return {"passed": verified.passed, **content}
