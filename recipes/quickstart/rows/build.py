"""Rows and tasks, drawn from the families with a fixed seed.

Not covered: checking them; see `verify`.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from string import Template
from types import SimpleNamespace
from typing import Any

from rows import algorithms, dates, dicts, errors, integers, lists, phrases, recursion, strings
from rows.asserts import Rival, UnclearError, choose
from rows.compose import family_of, pairs
from rows.pools import ANY_NAMES, held_name, train_name
from rows.shapes import Family, Slot, Value
from rows.verify import normal

AREAS = (strings, lists, integers, dicts, dates, recursion, errors, algorithms)
FAMILIES: list[Family] = [family for area in AREAS for family in area.FAMILIES]
ROWS_PER_FAMILY, ROWS_PER_PAIR = 74, 3
FREE_NAMES, ODD_NAMES = 0.9, 0.6
"""Share of names of functions, and of arguments that the instruction says, that have nothing to do with the task. Who
sees fitting names only learns to write what fits, and not what was asked for."""
HELD = {"phrasing": 60, "parameter": 60, "composition": 50}


@dataclass(frozen=True)
class Draw:
    """One row's choices."""

    family: Family
    values: dict[str, Value]
    name: str
    args: tuple[str, ...]
    core: str
    opening: str
    ticks: bool


def _pieces(values: dict[str, Value], said: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Slots as code and as words; `x ~ y` fills `$slot` and `$slot2`."""
    code: dict[str, str] = {}
    spoken: dict[str, str] = {}
    for slot, value in values.items():
        for target, text in ((code, value.code), (spoken, said[slot])):
            for i, piece in enumerate(text.split(" ~ "), 1):
                target[slot if i == 1 else f"{slot}{i}"] = piece
    return code, spoken


def _filled(template: str, words: dict[str, str]) -> str:
    once = Template(template).substitute(words)
    return Template(once).substitute(words) if "$" in once else once


def code_of(draw: Draw) -> str:
    """The function's source."""
    code, _ = _pieces(draw.values, dict.fromkeys(draw.values, ""))
    words = code | dict(zip("ab", draw.args, strict=False)) | {"f": draw.name}
    body = "".join(f"    {line}\n" for line in _filled(draw.family.body, words).splitlines())
    head = f"{draw.family.imports}\n\n\n" if draw.family.imports else ""
    return f"{head}def {draw.name}({', '.join(draw.args)}):\n{body}".rstrip("\n")


def text_of(draw: Draw, rng: Random) -> str:
    """The instruction."""
    _, words = _pieces(draw.values, {slot: rng.choice(value.words) for slot, value in draw.values.items()})
    tick = "`" if draw.ticks else ""
    signed, core = "$sig" in draw.opening, draw.core
    for letter, arg, kind in zip("ab", draw.args, draw.family.args, strict=False):
        words[letter] = f"{tick}{arg}{tick}" if signed else rng.choice(kind.nouns)
        if not signed:
            core = _said_once(core, letter, alone=len(draw.args) == 1)
    signature = f"{tick}{draw.name}({', '.join(draw.args)}){tick}"
    return phrases.say(draw.opening, core, f"{tick}{draw.name}{tick}", signature, words)


def _said_once(core: str, letter: str, alone: bool) -> str:
    """The core with a pronoun where it speaks of an argument for the second time."""
    before, mark, after = core.partition(f"${letter}")
    again = "it" if alone else {"a": "the first", "b": "the second"}[letter]
    return before + mark + re.sub(rf"\${letter}\b", again, after)


def _values(family: Family, rng: Random, held: bool = False) -> dict[str, Value]:
    """A value for each slot; held values wherever there are some, if asked."""
    for _ in range(500):
        picked = {
            name: rng.choice(slot.held if held and slot.held else slot.train) for name, slot in family.slots.items()
        }
        if family.where(_plain(picked)):
            return picked
    raise UnclearError(f"{family.name}: no values go together")


def _alike(family: Family) -> list[Family]:
    """Other families that take the same kinds of arguments."""
    return [f for f in FAMILIES if f.name != family.name and f.args == family.args and not f.raises]


def _rivals(family: Family, values: dict[str, Value], rng: Random) -> list[Rival]:
    """Other values of a slot; the family's own rivals; other families; the argument itself."""
    found = []
    for others in _changes(family, values, rng):
        p = _plain(values | others)
        if family.where(p):
            sure = len(others) == 1 and not (family.label and _close(others, values))
            found.append(Rival(family.expect, p, must_fail=sure))
    found += [Rival(expect, _plain(values), i < 2) for i, expect in enumerate(family.rivals)]
    alike = _alike(family)
    for other in rng.sample(alike, min(4, len(alike))):
        found.append(Rival(other.expect, _plain(_values(other, rng)), False))
    return [*found, Rival(lambda p, *args: args[0], SimpleNamespace(), False)]


def _changes(family: Family, values: dict[str, Value], rng: Random) -> list[dict[str, Value]]:
    """Other values for one slot, and for an option and a number at once (x < 8 is close to x <= 7)."""
    others = {slot: _others(choices, values[slot], rng) for slot, choices in family.slots.items()}
    single = [{slot: other} for slot, pool in others.items() for other in pool]
    numeric = [slot for slot in others if _numeric(family.slots[slot])]
    joint = [
        {slot: other, number: close}
        for number in numeric
        for slot in others
        if slot not in numeric
        for other in others[slot][:3]
        for close in others[number][:2]
    ]
    return single + joint


def _close(others: dict[str, Value], values: dict[str, Value]) -> bool:
    """Whether these are nearly the same numbers: in a composition the other operation may hide the difference."""
    return all(isinstance(v.value, int) and abs(v.value - values[slot].value) < 5 for slot, v in others.items())


def _numeric(slot: Slot) -> bool:
    return all(isinstance(v.value, int) and v.code == repr(v.value) for v in slot.train)


def _others(slot: Slot, value: Value, rng: Random) -> list[Value]:
    """Four other values that mean something else; of numbers the two nearest come first."""
    pool = [v for v in slot.train + slot.held if v.code != value.code]
    rng.shuffle(pool)
    if _numeric(slot):
        near = sorted(pool, key=lambda v: abs(v.value - value.value))[:2]
        pool = near + [v for v in pool if v not in near]
    return pool[:4]


def _plain(values: dict[str, Value]) -> SimpleNamespace:
    return SimpleNamespace(**{name: value.value for name, value in values.items()})


def _free(names: Sequence[str], body: str, taken: set[str]) -> list[str]:
    used = set(re.findall(r"(?<!\$)\b[a-z_]+\b", body)) | taken
    return [name for name in names if name not in used]


def _arguments(family: Family, rng: Random, signed: bool, held: bool = False, odd: float = 0.0) -> tuple[str, ...]:
    """Names of the arguments: the usual ones, or, where the instruction says them, any of their kind, or odd ones."""
    chosen: list[str] = []
    for kind in family.args:
        names = kind.held if held and signed else ANY_NAMES if rng.random() < odd else kind.names
        free = _free(names, family.body, set(chosen))
        chosen.append(rng.choice(free) if signed else free[0])
    return tuple(chosen)


def _tests(draw: Draw, rng: Random) -> list[str]:
    season = [value.value for value in draw.values.values() if value.code == repr(value.value)]
    rivals = _rivals(draw.family, draw.values, rng)
    return choose(draw.family, _plain(draw.values), rivals, season, draw.name, rng)


def _train_draw(family: Family, i: int, rng: Random) -> Draw:
    """Half of the openings give a name, a third a name and its arguments, the rest nothing."""
    kind = rng.random()
    openings = phrases.NAMED if kind < 0.5 else phrases.SIGNED if kind < 0.82 else phrases.UNNAMED
    opening = rng.choice(openings)
    fitting = (family.name, *family.names)
    name = train_name(rng) if rng.random() < FREE_NAMES else rng.choice(fitting)
    if openings is phrases.UNNAMED:
        name = family.name
    signed = openings is phrases.SIGNED
    args = _arguments(family, rng, signed, odd=ODD_NAMES if signed else 0.0)
    core = family.train[i % len(family.train)]
    return Draw(family, _values(family, rng), name, args, core, opening, rng.random() < 0.6)


def _drawn(make: Callable[[], Draw], rng: Random, taken: set[str]) -> tuple[Draw, dict[str, Any]]:
    """A row whose instruction is new and whose tests are clear."""
    why = ""
    for _ in range(60):
        draw = make()
        text = text_of(draw, rng)
        try:
            row = {"instruction": text, "output": code_of(draw), "tests": _tests(draw, rng)}
        except UnclearError as unclear:
            why = str(unclear)
            continue
        key = normal(text)
        if key not in taken and draw.name not in draw.args:
            taken.add(key)
            return draw, row
        why = f"{draw.family.name}: no new instruction"
    raise UnclearError(why)


def train_rows() -> list[dict[str, Any]]:
    """Alpaca rows with family and tests, in a shuffled order."""
    taken: set[str] = set()
    rows = []
    todo = [(family, ROWS_PER_FAMILY) for family in FAMILIES]
    todo += [(family_of(pair), ROWS_PER_PAIR) for pair in pairs() if pair.split == "train"]
    for family, count in todo:
        rng = Random(f"train {family.label or family.name}")
        for i in range(count):
            at = rng.randrange(len(family.train)) if family.label else i
            draw, row = _drawn(partial(_train_draw, family, at, rng), rng, taken)
            rows.append(
                {"instruction": row["instruction"], "input": "", "output": row["output"]}
                | {"family": draw.family.label or draw.family.name, "tests": row["tests"]}
            )
    Random("order").shuffle(rows)
    return rows


def _held_draw(family: Family, split: str, i: int, rng: Random) -> Draw:
    """A task that always says its name; new phrasing or new values and names, by its split."""
    new_words, new_values = split == "phrasing", split == "parameter"
    signed = rng.random() < 0.4
    shared = phrases.SIGNED if signed else phrases.NAMED
    fresh = phrases.HELD_SIGNED if signed else phrases.HELD_NAMED
    opening = rng.choice(fresh if new_words and i % 2 else shared)
    name = held_name(rng) if new_values else train_name(rng)
    args = _arguments(family, rng, signed, held=new_values)
    core = rng.choice(family.held if new_words else family.train)
    return Draw(family, _values(family, rng, held=new_values), name, args, core, opening, rng.random() < 0.6)


def _held_families(split: str, count: int) -> list[Family]:
    """What the tasks of a split are about: for `parameter` families with literals first, else held pairs or any."""
    rng = Random(f"families of {split}")
    if split == "composition":
        pool = [family_of(pair) for pair in pairs() if pair.split == "held"]
    elif split == "parameter":
        plain = [f for f in FAMILIES if not any(slot.held for slot in f.slots.values())]
        pool = [f for f in FAMILIES if f not in plain] + rng.sample(plain, 10)
    else:
        pool = list(FAMILIES)
    rng.shuffle(pool)
    return list(itertools.islice(itertools.cycle(pool), count))


def heldout_tasks(again: Counter[str] | None = None) -> list[dict[str, Any]]:
    """Tasks of all three splits.

    Args:
        again: How often a task, by its id, was drawn before and found wanting.
    """
    again = again or Counter()
    taken: set[str] = set()
    tasks = []
    for split, count in HELD.items():
        for i, family in enumerate(_held_families(split, count), 1):
            task_id = f"{split}/{i:03}"
            rng = Random(f"held out {task_id} {again[task_id]}")
            draw, row = _drawn(partial(_held_draw, family, split, i, rng), rng, taken)
            tasks.append(
                {"task_id": task_id, "split": split, "family": family.label or family.name}
                | {"instruction": row["instruction"], "output": row["output"], "entry_point": draw.name}
                | {"tests": row["tests"]}
            )
    return tasks


def areas() -> dict[str, int]:
    """How many families each area has."""
    kinds = {pair.kind for pair in pairs()}
    return {area.__name__.split(".")[-1]: len(area.FAMILIES) for area in AREAS} | {"compositions": len(kinds)}
