"""Tasks on lists."""

from __future__ import annotations

import itertools
import operator
from random import Random
from types import SimpleNamespace
from typing import Any

from rows.pools import ITEMS, MATRIX, NUMBERS, SOME, TALK, choice, numbers, some_numbers
from rows.shapes import Arg, Family

LONG = Arg(ITEMS.names, ITEMS.held, ITEMS.nouns, some_numbers(7, 12))
OTHER = Arg(("other", "second", "others"), ("twin", "reference"), ("another list", "a second list"), ITEMS.sample)
COMPARE = choice(
    ("greater than|above|over", ">", lambda x, n: not x <= n),
    ("at least|not less than", ">=", lambda x, n: not x < n),
    ("less than|below|under", "<", lambda x, n: not x >= n),
    ("at most|not more than", "<=", lambda x, n: not x > n),
)
LARGE = choice(("largest|biggest", "max", max), ("smallest", "min", min))


def _with_n(rng: Random, p: SimpleNamespace) -> tuple[list[int]]:
    """A list that has n somewhere, perhaps twice."""
    values = [rng.randint(0, 99) for _ in range(rng.randint(1, 5))]
    for _ in range(rng.randint(1, 2)):
        values.insert(rng.randint(0, len(values)), p.n)
    return (values,)


def _repeats(rng: Random, p: SimpleNamespace) -> tuple[list[Any]]:
    pools: list[list[Any]] = [TALK[:5], [1, 2, 3, 4], [5, 8, 13, 0]]
    pool = rng.choice(pools)
    return ([rng.choice(pool) for _ in range(rng.randint(2, 8))],)


def _two_lists(rng: Random, p: SimpleNamespace) -> tuple[list[int], list[int]]:
    return tuple([rng.randint(1, 9) for _ in range(rng.randint(2, 6))] for _ in range(2))  # type: ignore[return-value]


def _rotate(p: SimpleNamespace, a: list[Any]) -> list[Any]:
    values = list(a)
    for _ in range(p.n):
        values = values[1:] + values[:1] if p.way == "left" else values[-1:] + values[:-1]
    return values


def _chunks(p: SimpleNamespace, a: list[Any]) -> list[list[Any]]:
    groups: list[list[Any]] = []
    for i, x in enumerate(a):
        if i % p.n == 0:
            groups.append([])
        groups[-1].append(x)
    return groups


def _next_first(p: SimpleNamespace, a: list[int]) -> int | None:
    return next((x for x in a if p.op(x, p.n)), None)


FAMILIES = [
    Family(
        "keep_numbers", (NUMBERS,), "return [x for x in $a if x $op $n]",
        ("[keep] only the numbers in $a that are $op $n", "[return] all numbers in $a $op $n",
         "[filter] $a so that only values $op $n remain", "[drop] from $a everything that is not $op $n",
         "[choose] the values of $a that are $op $n", "[remove] every number from $a unless it is $op $n",
         "[pick] out of $a those numbers which are $op $n",
         "[return] a new list with the numbers of $a that are $op $n",
         "[go] through $a and [collect] each value that is $op $n",
         "[look] through $a for values that are $op $n and [return] them"),
        ("[return] only those values of $a that are $op $n", "[filter] $a for numbers $op $n"),
        lambda p, a: list(filter(lambda x: p.op(x, p.n), a)), {"op": COMPARE, "n": numbers(0, 99)},
        ("filter_numbers", "filter_values", "pick_numbers"),
    ),
    Family(
        "keep_multiples", (NUMBERS,), "return [x for x in $a if x % $n $op 0]",
        ("[keep] only the numbers in $a that are $op $n", "[return] the numbers in $a that are $op $n",
         "[filter] $a so that all remaining values are $op $n", "[find] all the numbers in $a which are $op $n",
         "[choose] those values in $a that are $op $n",
         "[look] through $a for numbers that are $op $n and [collect] them",
         "[reduce] $a to the numbers that are $op $n", "[return] a new list with the values of $a that are $op $n",
         "[pick] out of $a only numbers that are $op $n", "[remove] all numbers from $a unless they are $op $n"),
        ("[return] only those numbers of $a which are $op $n", "[filter] $a for values that are $op $n"),
        lambda p, a: [x for x in a if (x // p.n * p.n == x) == p.op],
        {"op": choice(("divisible by|multiples of", "==", True), ("not divisible by|not multiples of", "!=", False)),
         "n": numbers(2, 14)}, ("multiples", "filter_multiples", "pick_multiples"),
        inputs=lambda rng, p: ([rng.choice([rng.randint(0, 60), p.n * rng.randint(1, 9)]) for _ in range(6)],),
    ),
    Family(
        "running_total", (NUMBERS,),
        "total = $op\nresult = []\nfor x in $a:\n    total $op2= x\n    result.append(total)\nreturn result",
        ("[return] the running $op of $a", "[list] the $op of $a so far at every step",
         "[compute] the cumulative $op of $a", "[give] the $op of all numbers up to each position in $a",
         "[go] through $a and [note] the $op so far after each number",
         "[keep] a running $op over $a and [return] all steps",
         "[replace] each number in $a by the $op of it and all numbers before it",
         "[find] the $op of the first item, of the first two items and so on in $a",
         "[collect] the $op of $a from the start to every position",
         "[return] the list of cumulative results for the $op of $a"),
        ("[list] the cumulative $op of $a", "[compute] the running $op at every position in $a"),
        lambda p, a: list(itertools.accumulate(a, p.op)),
        {"op": choice(("sum|total", "0 ~ +", operator.add), ("product", "1 ~ *", operator.mul))},
        ("cumulative", "running", "prefix_totals"),
    ),
    Family(
        "rotate_list", (LONG,), "return $a[$way$n:] + $a[:$way$n]",
        ("[rotate] $a to the $way by $n places", "[move] the items of $a to the $way by $n places, with wrap around",
         "[shift] all items of $a $n steps to the $way, with wrap around", "[turn] $a by $n positions to the $way",
         "[return] $a rotated to the $way by $n positions", "[cycle] $a by $n steps to the $way",
         "[push] every item of $a $n places to the $way, so that what falls off comes back at the other end",
         "[move] each item in $a $n positions $way, going around at the end",
         "[give] back $a after a rotation of $n places to the $way",
         "[let] the items of $a go around by $n steps to the $way"),
        ("[shift] $a to the $way by $n positions, with wrap around",
         "[rotate] all items of $a by $n steps to the $way"),
        _rotate, {"n": numbers(1, 7), "way": choice(("left", "", "left"), ("right", "-", "right"))},
        ("rotate", "shift_list", "turn_list"),
    ),
    Family(
        "chunk_list", (LONG,), "return [$a[i:i + $n] for i in range(0, len($a), $n)]",
        ("[split] $a into chunks of $n items", "[cut] $a into pieces of length $n",
         "[group] the items of $a in lists of $n",
         "[break] $a into groups of $n", "[divide] $a into parts of $n items each",
         "[return] a list of lists with $n items of $a in each", "[collect] each $n items of $a in a list of their own",
         "[partition] $a into blocks of size $n, where the last may be shorter",
         "[slice] $a every $n items and [return] the pieces", "[make] lists of length $n out of $a"),
        ("[break] $a into chunks of length $n", "[split] the items of $a in groups of $n",
         "[cut] $a into lists of $n items"),
        _chunks, {"n": numbers(2, 8)}, ("chunks", "split_list", "make_groups"),
    ),
    Family(
        "unique_items", (ITEMS,),
        "result = []\nfor x in $a:\n    if x not in result:\n        result.append(x)\nreturn result",
        ("[remove] duplicates from $a and [keep] the order", "[return] the unique items of $a in their order",
         "[drop] every repeated item of $a", "[list] each different item of $a once",
         "[return] $a without duplicates, in the same order", "[keep] only the first of all equal items in $a",
         "[filter] $a so that no item occurs twice and the order stays",
         "[go] through $a and [skip] each item that came before",
         "[take] every item of $a one time only, in order of first appearance",
         "[clean] $a of repeats, so that only the first of each item remains"),
        ("[drop] the duplicates of $a and [keep] their order", "[return] each item of $a once, in order"),
        lambda p, a: list(dict.fromkeys(a)), names=("dedupe", "unique", "remove_duplicates"), inputs=_repeats,
        rivals=(lambda p, a: sorted(set(a)), lambda p, a: [x for x in a if a.count(x) == 1]),
    ),
    Family(
        "nth_largest", (SOME,), "return sorted(set($a)$order)[$i]",
        ("[find] the $i $order number in $a", "[return] the $i $order different value of $a",
         "[give] back the $i $order of the numbers in $a", "[pick] the $i $order value out of $a",
         "[sort] the different values of $a and [return] the $i $order", "[tell] which number in $a is the $i $order",
         "[get] the $i $order of all different numbers in $a",
         "[look] for the $i $order value in $a, where equal numbers count once",
         "[remove] duplicates from $a and [find] the $i $order number that is left",
         "[choose] the number of $a that is the $i $order when equal ones count once"),
        ("[return] the $i $order number of $a", "[find] the $i $order value in $a"),
        lambda p, a: p.order(set(a), p.i),
        {"i": choice(("second", "1", 1), ("third", "2", 2)),
         "order": choice(("largest|biggest", ", reverse=True", lambda s, i: sorted(s)[-1 - i]),
                         ("smallest", "", lambda s, i: sorted(s)[i]))},
        ("ranked", "nth_value", "rank_pick"),
    ),
    Family(
        "flatten", (MATRIX,), "return [x for row in $a for x in row]",
        ("[flatten] $a into one list", "[put] all items of the inner lists of $a into one list",
         "[join] the rows of $a into a single list", "[turn] $a into a flat list",
         "[return] a single list with what the rows of $a hold", "[merge] all inner lists of $a into a single one",
         "[collect] everything in the lists of $a in one flat list", "[remove] one level of nesting from $a",
         "[take] the items out of each inner list of $a and [put] them in one list",
         "[unpack] $a so that its rows, one after the other, form one list"),
        ("[return] one flat list with all the items of $a", "[join] the inner lists of $a into one"),
        lambda p, a: list(itertools.chain(*a)), names=("flat_list", "flatten_rows", "join_rows"),
    ),
    Family(
        "neighbours", (NUMBERS,), "return [$code for x, y in zip($a, $a[1:])]",
        ("[list] the $code of neighbours in $a", "[return] the $code for each pair of neighbours in $a",
         "[compute] the $code of every two adjacent numbers in $a",
         "[give] the $code of adjacent values of $a as a list",
         "[go] through $a and [collect] the $code of each item and the next",
         "[build] a list with the $code of numbers that stand side by side in $a",
         "[take] each number in $a with the one after it and [list] the $code",
         "[find] the $code for all pairs of values next to each other in $a",
         "[make] a list of the $code for each number of $a and its right neighbour",
         "[produce] the $code for every number in $a and the one that follows"),
        ("[return] the $code of all adjacent numbers in $a", "[compute] the $code for every pair of neighbours in $a"),
        lambda p, a: [p.code(a[i], a[i + 1]) for i in range(len(a) - 1)],
        {"code": choice(("differences (next minus previous)", "y - x", lambda x, y: -(x - y)),
                        ("sums", "x + y", lambda x, y: sum((x, y))), ("pairs", "(x, y)", lambda x, y: (x, y)),
                        ("products", "x * y", lambda x, y: y * x),
                        ("larger value", "max(x, y)", lambda x, y: max(y, x)))},
        ("adjacent", "steps", "pairwise"),
    ),
    Family(
        "extreme_index", (SOME,), "return $a.index($best($a))",
        ("[find] the index of the $best number in $a", "[return] the position of the $best value of $a",
         "[tell] where in $a the $best item is", "[give] the first index of the $best number in $a",
         "[return] the first index at which $a has its $best value",
         "[locate] the $best number of $a and [return] its index",
         "[say] at which position the $best number stands in $a", "[find] where the $best value in $a first occurs",
         "[look] for the $best item of $a and [give] its position",
         "[get] the index in $a that holds the $best number"),
        ("[return] the index where the $best value of $a is", "[tell] the position of the $best number in $a"),
        lambda p, a: [x == p.best(a) for x in a].index(True), {"best": LARGE},
        ("index_of_best", "best_index", "peak_position"),
    ),
    Family(
        "every_nth", (LONG,), "return $a[$m::$n]",
        ("[take] the items of $a from index $m on in steps of $n",
         "[return] each item of $a in steps of $n, starting at index $m",
         "[start] at index $m of $a and [take] an item every $n places",
         "[pick] items of $a with step $n from position $m", "[slice] $a from index $m with a step of $n",
         "[collect] an item of $a every $n positions, beginning at index $m",
         "[go] through $a from position $m in steps of $n and [list] the items",
         "[skip] the first $m items of $a and [take] the first of every $n that follow",
         "[return] what stands in $a at index $m and every $n places after",
         "[jump] through $a by $n places from index $m and [return] each item found"),
        ("[start] at position $m and [return] an item of $a every $n places",
         "[pick] each item of $a from index $m in steps of $n"),
        lambda p, a: [x for i, x in enumerate(a) if i >= p.m and (i - p.m) % p.n == 0],
        {"n": numbers(2, 6), "m": choice(*[(str(i), str(i), i) for i in range(5)])},
        ("take_steps", "step_items", "every"),
    ),
    Family(
        "cut_at", (ITEMS,), "return $a[$side]",
        ("[return] the items of $a $side the first $n", "[take] all that comes $side the first $n in $a",
         "[cut] $a at the first $n and [keep] what comes $side it",
         "[find] the first $n in $a and [return] the items $side it",
         "[give] everything in $a that stands $side the first $n", "[return] the part of $a $side its first $n",
         "[look] for the first $n in $a and [keep] only the items $side it",
         "[split] $a at the first $n and [return] the part $side it",
         "[list] what is in $a $side the first time that $n occurs",
         "[choose] the items that come $side the first $n of $a"),
        ("[take] the items $side the first $n in $a", "[find] the first $n and [keep] what comes $side it in $a"),
        lambda p, a: p.side(a, p.n),
        {"n": numbers(0, 40), "side": choice(
            ("before", ":$a.index($n)", lambda a, n: list(itertools.takewhile(lambda x: x != n, a))),
            ("after", "$a.index($n) + 1:", lambda a, n: list(itertools.dropwhile(lambda x: x != n, a))[1:]))},
        ("cut_list", "split_at", "part_of"), inputs=_with_n,
    ),
    Family(
        "windows", (LONG,), "return [$what($a[i:i + $n]) for i in range(len($a) - $n + 1)]",
        ("[list] the $what of each window of $n items in $a",
         "[return] the $what of all sliding windows of length $n over $a",
         "[slide] a window of $n items over $a and [collect] the $what",
         "[compute] the $what of every $n items in a row in $a",
         "[find] the $what for all groups of $n adjacent items in $a",
         "[move] a window of length $n along $a and [return] the $what at each position",
         "[go] over $a with a window of size $n and [note] the $what every time",
         "[take] each $n items in a row from $a and [collect] the $what",
         "[build] a list of the $what over every $n adjacent items of $a",
         "[return] the $what of each run of $n neighbours in $a as a list"),
        ("[collect] the $what of every window of length $n in $a",
         "[slide] over $a with $n items and [list] the $what"),
        lambda p, a: [p.what(a[i:][: p.n]) for i in range(len(a)) if len(a[i:]) >= p.n],
        {"n": numbers(2, 6), "what": choice(("sum|total", "sum", lambda w: sum(reversed(w))),
                                            ("largest value|maximum", "max", lambda w: sorted(w)[-1]),
                                            ("smallest value|minimum", "min", lambda w: sorted(w)[0]))},
        ("sliding", "moving", "window_list"),
    ),
    Family(
        "change_each", (NUMBERS,), "return [x $op $n for x in $a]",
        ("[return] $a with every number $op $n", "[make] a list of the values of $a, each $op $n",
         "[build] a list where each number of $a is $op $n", "[give] back $a with all numbers $op $n",
         "[take] every number in $a $op $n", "[compute] each value of $a $op $n and [return] the list",
         "[map] the numbers in $a to themselves $op $n", "[collect] all values of $a, each $op $n, in a new list",
         "[go] through $a and [list] every number $op $n", "[produce] a new list in which each item of $a is $op $n"),
        ("[return] each number of $a $op $n", "[build] a list with all the values of $a $op $n"),
        lambda p, a: [p.op(x, p.n) for x in a],
        {"op": choice(("multiplied by|times", "*", operator.mul), ("plus|increased by", "+", operator.add),
                      ("minus|decreased by", "-", operator.sub)), "n": numbers(2, 60)},
        ("change_all", "map_numbers", "adjust"),
    ),
    Family(
        "first_match", (NUMBERS,), "for x in $a:\n    if x $op $n:\n        return x\nreturn None",
        ("[return] the first number in $a that is $op $n, or None", "[find] the first value $op $n in $a, else None",
         "[go] through $a and [return] the first number $op $n, or None if there is none",
         "[search] $a for the first value that is $op $n, or None",
         "[look] through $a for the first number $op $n and [return] it, or None if nothing fits",
         "[give] back the first value of $a that is $op $n, and None if there is no such value",
         "[pick] the first number from $a which is $op $n, or None when no number is",
         "[go] over $a until a value is $op $n and [return] that value, else None",
         "[stop] at the first number in $a which is $op $n and [return] it, or None at the end",
         "[get] the earliest value in $a that is $op $n, with None as default"),
        ("[search] $a and [return] the first value $op $n, else None",
         "[find] the first number of $a that is $op $n, or None"),
        _next_first, {"op": COMPARE, "n": numbers(0, 99)}, ("find_first", "first_number", "search_list"),
    ),
    Family(
        "common_items", (NUMBERS, OTHER), "return [x for x in $a if x $op $b]",
        ("[return] the items of $a that are $op $b", "[keep] those values of $a which are $op $b",
         "[list] everything in $a that is $op $b", "[filter] $a for items that are $op $b",
         "[choose] those items of $a that are $op $b", "[go] through $a and [collect] each item that is $op $b",
         "[return] a list of all values in $a which are $op $b", "[pick] from $a everything which is $op $b",
         "[find] the numbers in $a that are $op $b", "[compare] $a to $b and [keep] the items of $a that are $op $b"),
        ("[list] the items of $a which are $op $b", "[return] everything of $a that is $op $b"),
        lambda p, a, b: [x for x in a if bool(b.count(x)) == p.op],
        {"op": choice(("also in", "in", True), ("not in|missing from", "not in", False))},
        ("compare_lists", "shared", "list_overlap"), inputs=_two_lists,
    ),
    Family(
        "replace_items", (ITEMS,), "return [$m if x == $n else x for x in $a]",
        ("[replace] every $n in $a with $m", "[change] each $n of $a to $m", "[return] $a with $m in place of $n",
         "[put] $m wherever $a has $n", "[turn] all $n in $a into $m", "[go] over $a to substitute $m for each $n",
         "[return] a copy of $a in which every $n becomes $m", "[set] each item of $a that equals $n to $m",
         "[build] a list like $a, but with $m where it has $n",
         "[look] through $a and [write] $m for every item equal to $n"),
        ("[change] every $n to $m in $a", "[go] through $a and [put] $m in place of each $n"),
        lambda p, a: [{p.n: p.m}.get(x, x) for x in a], {"n": numbers(0, 40), "m": numbers(0, 99)},
        ("replace_values", "swap_values", "change_items"), inputs=_with_n, where=lambda p: p.n != p.m,
    ),
]  # fmt: skip
