"""Tasks that are to be solved by a function that calls itself."""

from __future__ import annotations

import itertools
import math
import operator
from random import Random
from types import SimpleNamespace
from typing import Any

from rows.pools import ITEMS, NUMBERS, WHOLE, a_number, choice, numbers, some_numbers
from rows.shapes import Arg, Family

TINY = Arg(WHOLE.names, WHOLE.held, WHOLE.nouns, a_number(0, 9))
FEW = Arg(ITEMS.names, ITEMS.held, ITEMS.nouns, some_numbers(0, 3))
BASE = Arg(("base", "x", "a"), ("root", "ground"), ("a number", "a base"), a_number(1, 7))
POWER = Arg(("power", "k", "b"), ("degree", "height"), ("an exponent", "a given exponent"), a_number(0, 6))


def _nested(rng: Random, depth: int = 0) -> list[Any]:
    return [_nested(rng, depth + 1) if depth < 3 and rng.random() < 0.35 else rng.randint(1, 20)
            for _ in range(rng.randint(0 if depth else 1, 3))]  # fmt: skip


NESTED = Arg(("items", "values", "data", "tree"), ("entries", "branches"), ("a nested list", "the nested list"),
             lambda rng, season: _nested(rng))  # fmt: skip


def _leaves(a: Any) -> list[int]:
    return [a] if isinstance(a, int) else [n for x in a for n in _leaves(x)]


def _depth(p: SimpleNamespace, a: list[Any]) -> int:
    text, level, deepest = repr(a), 0, 0
    for c in text:
        level += {"[": 1, "]": -1}.get(c, 0)
        deepest = max(deepest, level)
    return deepest


def _sequence(p: SimpleNamespace, n: int) -> int:
    value: int = p.n
    for _ in range(n):
        value = p.op(value, p.m)
    return value


FAMILIES = [
    Family(
        "factorial", (TINY,), "if $a <= 1:\n    return 1\nreturn $a * $f($a - 1)",
        ("[compute] the factorial of $a recursively", "[return] $a factorial by recursion",
         "[use] recursion to get the factorial of $a", "[multiply] all numbers from 1 to $a by recursion",
         "[find] the factorial of $a with a function that calls itself",
         "[give] the product of all whole numbers from 1 up to $a, recursively",
         "[calculate] $a factorial in a recursive way",
         "[get] the product of the numbers 1 to $a through recursive calls",
         "[take] $a and [return] its factorial, computed by recursion",
         "[apply] recursion so that the factorial of $a comes out"),
        ("[use] recursion to compute $a factorial", "[return] the factorial of $a with recursion"),
        lambda p, n: math.prod(range(2, n + 1)), names=("fact", "recursive_factorial"),
    ),
    Family(
        "nested_total", (NESTED,),
        "total = 0\nfor x in $a:\n    total += $f(x) if isinstance(x, list) else $what\nreturn total",
        ("[$what2] the numbers in $a at any depth", "[walk] through $a and [$what2] all numbers inside",
         "[use] recursion to $what2 the numbers of $a", "[go] into every inner list of $a and [$what2] the numbers",
         "[return] the $what2 of all numbers in $a, however deep they lie",
         "[find] the $what2 of the numbers in $a and in the lists inside it",
         "[$what2] every number in $a, with a recursive call for each inner list",
         "[visit] all levels of $a recursively and [$what2] the numbers there",
         "[go] down through $a and its inner lists to $what2 all the numbers",
         "[compute] recursively the $what2 of every number that $a holds at some level"),
        ("[use] recursion on $a to $what2 all numbers inside", "[walk] into every list of $a and [$what2] the numbers"),
        lambda p, a: p.what(_leaves(a)),
        {"what": choice(("sum ~ sum", "x", sum), ("count ~ count", "1", len))},
        ("deep_total", "walk_nested", "tree_total"),
    ),
    Family(
        "depth", (NESTED,),
        "if not isinstance($a, list):\n    return 0\nreturn 1 + max([$f(x) for x in $a], default=0)",
        ("[find] how deep $a is nested", "[return] the depth of $a", "[measure] how many levels of lists $a has",
         "[compute] the greatest depth of $a by recursion",
         "[tell] how many lists lie inside each other in $a at most", "[determine] the deepest level of $a",
         "[get] the nesting depth of $a, where a flat list has depth 1",
         "[go] down into $a and [give] back the number of its deepest level",
         "[count] the levels of $a recursively, from the outer list to the deepest one",
         "[work] out how far down the lists of $a are nested"),
        ("[compute] how deep the lists in $a are nested", "[return] how many levels deep $a is"),
        _depth, names=("max_depth", "nesting", "levels"),
        rivals=(lambda p, a: len(a), lambda p, a: repr(a).count("[")),
    ),
    Family(
        "countdown", (WHOLE,), "if $a < $n:\n    return []\nreturn [$a] + $f($a - $m)",
        ("[count] down from $a to $n in steps of $m, by recursion",
         "[return] the list from $a down to $n in steps of $m, recursively",
         "[list] the numbers from $a down in steps of $m while they are at least $n, with recursion",
         "[use] recursion to count from $a down to $n by $m",
         "[build] a list by recursion: $a, then $m less each time, as long as it is at least $n",
         "[start] a list with $a and recursively [add] values, each $m smaller, until they would fall below $n",
         "[go] down from $a by $m at a time and [return] all values that are at least $n, recursively",
         "[collect] $a and then always the number $m lower, with recursion, and [stop] below $n",
         "[give] back a recursive countdown from $a with step $m that ends at $n or just above",
         "[return] a list by recursion that goes down from $a in steps of $m and has nothing below $n"),
        ("[use] recursion to list the numbers from $a down to $n in steps of $m",
         "[count] recursively from $a down by $m while it is at least $n"),
        lambda p, a: list(range(a, p.n - 1, -p.m)), {"n": numbers(0, 20), "m": numbers(1, 9)},
        ("count_down", "steps_down", "descend"), inputs=lambda rng, p: (p.n + rng.randint(-1, 6 * p.m),),
    ),
    Family(
        "permutations", (FEW,),
        "if not $a:\n    return [[]]\nresult = []\n"
        "for i, x in enumerate($a):\n    for rest in $f($a[:i] + $a[i + 1:]):\n"
        "        result.append([x] + rest)\nreturn result",
        ("[list] all permutations of $a", "[return] every order of the items in $a",
         "[build] all arrangements of $a by recursion", "[find] all the ways to order $a",
         "[generate] each possible order of $a", "[give] back a list of all the orders that the items of $a can have",
         "[work] out recursively all the ways in which $a can be arranged",
         "[make] a list that has every permutation of $a in it",
         "[produce] all orders in which the items of $a can stand",
         "[put] each item of $a first in turn and all permutations of the rest after it"),
        ("[return] all the permutations of $a as lists", "[build] every arrangement of the items in $a"),
        lambda p, a: [list(x) for x in itertools.permutations(a)], names=("all_orders", "arrangements", "permute"),
    ),
    Family(
        "sequence", (TINY,), "if $a == 0:\n    return $n\nreturn $f($a - 1) $op $m",
        ("[return] the term at $a of the sequence that starts at $n, each next term $op $m",
         "[use] recursion to find the term at $a when term 0 is $n and each term is the one before $op $m",
         "[compute] the term at $a of a sequence from $n where each step is $op $m",
         "[start] with $n and recursively [return] the value after $a steps, each $op $m",
         "[calculate] the term at $a, where term 0 is $n and every further term is the previous term $op $m",
         "[give] the value at $a in a recursive sequence: first $n, then always the last value $op $m",
         "[work] out recursively what becomes of $n after as many steps as $a, each $op $m",
         "[let] a sequence start from $n, each term being the one before $op $m, and [get] its term at $a",
         "[get] the term at $a by recursion in the sequence $n, then $n $op $m, and so on",
         "[find] the term at $a with a function that calls itself: it begins at $n and each term is the last $op $m"),
        ("[compute] the term at $a of the sequence from $n where each term is the one before $op $m",
         "[use] recursion to return the term at $a, starting at $n, each step $op $m"),
        _sequence, {"n": numbers(1, 30), "m": numbers(2, 20),
                    "op": choice(("times|multiplied by", "*", operator.mul), ("plus|increased by", "+", operator.add),
                                 ("minus|decreased by", "-", operator.sub))},
        ("term", "nth_term", "series"), inputs=lambda rng, p: (rng.randint(0, 6),),
    ),
    Family(
        "power", (BASE, POWER), "if $b == 0:\n    return 1\nreturn $a * $f($a, $b - 1)",
        ("[compute] $a to the power of $b by recursion", "[raise] $a to $b recursively",
         "[return] $a multiplied by itself $b times, with recursion", "[use] recursion to get $a to the power of $b",
         "[calculate] what $a raised to $b is, by recursive calls",
         "[work] out the power that $a and $b give, with a function that calls itself",
         "[get] the result of $a to the power of $b from a recursive function",
         "[let] recursion raise $a to the power of $b",
         "[return] 1 when $b is zero and otherwise $a times the next smaller power, by recursion",
         "[find] recursively which number $a to the power of $b is"),
        ("[use] recursion to raise $a to $b", "[return] $a to the power of $b recursively"),
        lambda p, a, b: a**b, names=("raise_to", "power_rec", "exponent"),
    ),
    Family(
        "fold_list", (NUMBERS,), "if not $a:\n    return $op\nreturn $a[0] $op2 $f($a[1:])",
        ("[return] the $op of $a by recursion", "[compute] the $op of all numbers in $a recursively",
         "[use] recursion to get the $op of $a", "[find] the $op of the values in $a without a loop, by recursion",
         "[work] out the $op of $a with a function that calls itself on the rest",
         "[go] through $a by recursive calls and [give] back the $op",
         "[get] the $op over all of $a recursively and not in a loop",
         "[calculate] the recursive $op of the numbers in $a",
         "[determine] the $op of every number that $a holds, through recursion",
         "[split] $a into its first number and the rest to get the $op recursively"),
        ("[use] recursion to find the $op of $a", "[compute] the $op of $a with recursion, without a loop"),
        lambda p, a: p.op(a), {"op": choice(("sum|total", "0 ~ +", sum), ("product", "1 ~ *", math.prod))},
        ("fold", "rec_total", "list_rec"),
    ),
]  # fmt: skip
