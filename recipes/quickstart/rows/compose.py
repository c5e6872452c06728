"""Compositions: two operations in a row, "first X, then Y". Each operation occurs in training; some pairs never do.

    def f(values):
        values = [x for x in values if x > 3]     # the first operation rebinds the argument
        return sum(values)                        # the second returns

A pair is shuffled, by a fixed seed, into training (75 %), held out (15 %) or unused (10 %). A pair in which one
operation cannot show (sort, then sort) is in no split.

Not covered: three operations; conditions between them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from types import SimpleNamespace
from typing import Any

from rows.pools import NUMBERS, TEXT, letters, numbers, some_numbers, some_text, words
from rows.shapes import Arg, Family, Slot

LIST = Arg(("values", "numbers", "items", "nums", "data"), NUMBERS.held, NUMBERS.nouns, some_numbers(5, 10))
LINE = Arg(TEXT.names, TEXT.held, TEXT.nouns, some_text(2, 4))


@dataclass(frozen=True)
class Op:
    """One operation: its code on `$a` with an optional literal `$n`, ways to say it, and a second implementation."""

    name: str
    code: str
    words: tuple[str, ...]
    apply: Callable[[Any, Any], Any]
    slot: Slot | None = None


def _unique(a: list[int], n: Any) -> list[int]:
    return [x for i, x in enumerate(a) if x not in a[:i]]


LISTS = [
    Op("keep_above", "[x for x in $a if x > $n]",
       ("[keep] the numbers above $n", "[keep] only what is greater than $n"),
       lambda a, n: [x for x in a if not x <= n], numbers(2, 30)),
    Op("keep_below", "[x for x in $a if x < $n]", ("[keep] the numbers below $n", "[keep] only what is less than $n"),
       lambda a, n: [x for x in a if not x >= n], numbers(8, 40)),
    Op("keep_even", "[x for x in $a if x % 2 == 0]", ("[keep] the even numbers", "[drop] the odd numbers"),
       lambda a, n: [x for x in a if (x in range(-9999, 0) and -x % 2 == 0) or (x >= 0 and not x & 1)]),
    Op("keep_odd", "[x for x in $a if x % 2 == 1]", ("[keep] the odd numbers", "[drop] the even numbers"),
       lambda a, n: [x for x in a if x & 1]),
    Op("drop_value", "[x for x in $a if x != $n]", ("[remove] every $n", "[drop] all values equal to $n"),
       lambda a, n: list(itertools.filterfalse(n.__eq__, a)), numbers(0, 12)),
    Op("add_each", "[x + $n for x in $a]", ("[add] $n to each number", "[increase] all numbers by $n"),
       lambda a, n: [sum((x, n)) for x in a], numbers(1, 20)),
    Op("multiply_each", "[x * $n for x in $a]", ("[multiply] each number by $n", "[take] every number times $n"),
       lambda a, n: [sum([x] * n) for x in a], numbers(2, 12)),
    Op("square_each", "[x ** 2 for x in $a]", ("[square] each number", "[take] the square of every number"),
       lambda a, n: [x * x for x in a]),
    Op("sort_up", "sorted($a)", ("[sort] in ascending order", "[sort] from small to large"),
       lambda a, n: sorted(a, reverse=True)[::-1]),
    Op("sort_down", "sorted($a, reverse=True)", ("[sort] in descending order", "[sort] from large to small"),
       lambda a, n: sorted(a)[::-1]),
    Op("reverse_list", "$a[::-1]", ("[reverse] the list", "[put] the items in reverse order"),
       lambda a, n: list(reversed(a))),
    Op("take_first", "$a[:$n]", ("[take] the first $n items", "[keep] only the first $n items"),
       lambda a, n: [x for i, x in enumerate(a) if i < n], numbers(2, 5)),
    Op("drop_first", "$a[$n:]", ("[drop] the first $n items", "[remove] the first $n items"),
       lambda a, n: [x for i, x in enumerate(a) if i >= n], numbers(1, 4)),
    Op("take_last", "$a[-$n:]", ("[take] the last $n items", "[keep] only the last $n items"),
       lambda a, n: [x for i, x in enumerate(a) if len(a) - i <= n], numbers(2, 5)),
    Op("unique", "list(dict.fromkeys($a))", ("[remove] duplicates", "[drop] repeated items"), _unique),
    Op("absolute", "[abs(x) for x in $a]", ("[take] absolute values", "[make] all numbers positive"),
       lambda a, n: [x if x > 0 else -x for x in a]),
]  # fmt: skip
ENDERS = [
    Op("total", "sum($a)", ("[return] the sum", "[add] up the rest"), lambda a, n: sum(reversed(a))),
    Op("largest", "max($a)", ("[return] the largest number", "[find] the maximum"), lambda a, n: sorted(a)[-1]),
    Op("smallest", "min($a)", ("[return] the smallest number", "[find] the minimum"), lambda a, n: sorted(a)[0]),
    Op("count", "len($a)", ("[return] how many are left", "[count] the items"), lambda a, n: sum(1 for _ in a)),
    Op("last", "$a[-1]", ("[return] the last item", "[take] the last one"), lambda a, n: a[len(a) - 1]),
    Op("spread", "max($a) - min($a)", ("[return] the largest minus the smallest", "[find] the spread"),
       lambda a, n: sorted(a)[-1] - sorted(a)[0]),
]  # fmt: skip
TEXTS = [
    Op("reverse", "$a[::-1]", ("[reverse] it", "[turn] it around"), lambda a, n: "".join(reversed(a))),
    Op("upper", "$a.upper()", ("[make] it upper case", "[convert] it to upper case"),
       lambda a, n: "".join(c.upper() for c in a)),
    Op("lower", "$a.lower()", ("[make] it lower case", "[convert] it to lower case"),
       lambda a, n: "".join(c.lower() for c in a)),
    Op("remove_letter", "$a.replace($n, '')", ("[remove] every $n", "[drop] all $n"),
       lambda a, n: "".join(c for c in a if c != n), letters()),
    Op("no_spaces", "$a.replace(' ', '')", ("[remove] the spaces", "[drop] all spaces"),
       lambda a, n: "".join(a.split(" "))),
    Op("first_chars", "$a[:$n]", ("[take] the first $n characters", "[keep] only the first $n characters"),
       lambda a, n: "".join(c for i, c in enumerate(a) if i < n), numbers(2, 9)),
    Op("skip_chars", "$a[$n:]", ("[drop] the first $n characters", "[remove] the first $n characters"),
       lambda a, n: "".join(c for i, c in enumerate(a) if i >= n), numbers(1, 5)),
    Op("repeat", "$a * $n", ("[repeat] it $n times", "[write] it $n times"), lambda a, n: "".join([a] * n),
       numbers(2, 5)),
    Op("prefix", "$n + $a", ("[put] $n in front", "[add] $n at the start"), lambda a, n: f"{n}{a}", words()),
    Op("suffix", "$a + $n", ("[put] $n at the end", "[append] $n"), lambda a, n: f"{a}{n}", words()),
    Op("title", "$a.title()", ("[capitalize] each word", "[write] every word with a capital"),
       lambda a, n: " ".join(w[:1].upper() + w[1:].lower() for w in a.split(" "))),
]  # fmt: skip

TRAIN = (
    "[take] $a, $x and then $y",
    "first $x in $a and then $y",
    "$x in $a and after that $y",
    "[do] two things with $a: $x, then $y",
    "[go] through $a, $x and finally $y",
)


@dataclass(frozen=True)
class Pair:
    """An ordered pair of operations on one kind of argument."""

    kind: str
    arg: Arg
    first: Op
    second: Op
    split: str = ""

    @property
    def name(self) -> str:
        """`first+second`."""
        return f"{self.first.name}+{self.second.name}"


def family_of(pair: Pair) -> Family:
    """The pair as a family, whose rivals are either operation alone and both in the wrong order."""
    one, two = pair.first, pair.second

    def run(p: SimpleNamespace, a: Any) -> Any:
        return two.apply(one.apply(a, getattr(p, "n", None)), getattr(p, "m", None))

    def swapped(p: SimpleNamespace, a: Any) -> Any:
        return one.apply(two.apply(a, getattr(p, "m", None)), getattr(p, "n", None))

    slots = ({"n": one.slot} if one.slot else {}) | ({"m": two.slot} if two.slot else {})
    spoken = [
        core.replace("$x", x).replace("$y", y.replace("$n", "$m"))
        for core, x, y in itertools.product(TRAIN, one.words, two.words)
    ]
    return Family(
        name=pair.kind,
        args=(pair.arg,),
        body=f"$a = {one.code}\nreturn {two.code.replace('$n', '$m')}",
        train=tuple(spoken),
        held=(),
        expect=run,
        slots=slots,
        names=("transform", "two_steps", "pipeline"),
        rivals=(
            lambda p, a: one.apply(a, getattr(p, "n", None)),
            lambda p, a: two.apply(a, getattr(p, "m", None)),
            swapped,
        ),
        label=f"{pair.kind}:{pair.name}",
    )


def _shows(pair: Pair) -> bool:
    """Whether each of both operations can change the result, and the result is not nearly always the same."""
    family, rng = family_of(pair), Random(pair.name)
    shown, results = [False, False], set()
    for _ in range(60):
        p = SimpleNamespace(**{k: rng.choice(slot.train).value for k, slot in family.slots.items()})
        a = pair.arg.sample(rng, list(vars(p).values()))
        if a:
            try:
                result = family.expect(p, list(a) if isinstance(a, list) else a)
                results.add(repr(result))
                shown = [s or rival(p, a) != result for s, rival in zip(shown, family.rivals[:2], strict=True)]
            except IndexError:
                continue
    return all(shown) and len(results) > 4


def pairs() -> list[Pair]:
    """All pairs that show, each with its split: train, held or unused."""
    drawn = [Pair("list_steps", LIST, x, y) for x, y in itertools.permutations(LISTS, 2)]
    drawn += [Pair("list_result", LIST, x, y) for x, y in itertools.product(LISTS, ENDERS)]
    drawn += [Pair("text_steps", LINE, x, y) for x, y in itertools.permutations(TEXTS, 2)]
    drawn = [pair for pair in drawn if _shows(pair)]
    Random("pairs").shuffle(drawn)
    split = []
    for kind in dict.fromkeys(pair.kind for pair in drawn):
        same = [pair for pair in drawn if pair.kind == kind]
        cut, end = round(0.75 * len(same)), round(0.90 * len(same))
        split += [replace(pair, split="train") for pair in same[:cut]]
        split += [replace(pair, split="held") for pair in same[cut:end]]
        split += [replace(pair, split="unused") for pair in same[end:]]
    Random("order of pairs").shuffle(split)
    return split
