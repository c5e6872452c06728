"""Small algorithms, written out."""

from __future__ import annotations

import itertools
from random import Random
from types import SimpleNamespace
from typing import Any

from rows.pools import ITEMS, MATRIX, NUMBERS, SOME, TEXT, choice, numbers, some_numbers
from rows.shapes import Arg, Family

LIMIT = Arg(
    ("n", "limit", "number"), ("amount", "border"), ("a number", "a limit", "n"), lambda rng, season: rng.randint(2, 60)
)
SORTED = Arg(("items", "values", "numbers", "data"), ("entries", "readings"), ("a sorted list", "the sorted list"),
             lambda rng, season: sorted(rng.sample(range(50), rng.randint(1, 7))))  # fmt: skip
MORE = Arg(
    ("other", "second", "right"), ("extra", "twin"), ("another sorted list", "a second sorted list"), SORTED.sample
)
TARGET = Arg(
    ("target", "wanted", "goal", "x"),
    ("sought", "key"),
    ("a target", "a target value"),
    lambda rng, season: rng.randint(0, 50),
)
RUNS = Arg(TEXT.names, TEXT.held, TEXT.nouns, lambda rng, season: _stretched(rng))
SHUFFLED = Arg(NUMBERS.names, NUMBERS.held, NUMBERS.nouns, some_numbers(2, 8))
ORDER = choice(("ascending|increasing", ">", False), ("descending|decreasing", "<", True))


def _stretched(rng: Random) -> str:
    return "".join(rng.choice("aabbxyz") * rng.choice([1, 1, 2, 3, 5]) for _ in range(rng.randint(0, 5)))


def _search(rng: Random, p: SimpleNamespace) -> tuple[list[int], int]:
    values = sorted(rng.sample(range(60), rng.randint(1, 8)))
    return values, rng.choice([rng.choice(values), rng.choice(values), rng.randint(0, 60)])


def _found(p: SimpleNamespace, a: list[int], x: int) -> Any:
    return a.index(x) if x in a else p.miss


def _with_pair(rng: Random, p: SimpleNamespace) -> tuple[list[int]]:
    x = rng.randint(-5, p.n + 5)
    values = [rng.randint(0, 60) for _ in range(rng.randint(1, 4))] + rng.choice([[x, p.n - x], [x]])
    rng.shuffle(values)
    return (values,)


def _two_sum(p: SimpleNamespace, a: list[int]) -> tuple[int, int] | None:
    return next(((i, j) for i, j in itertools.combinations(range(len(a)), 2) if a[i] + a[j] == p.n), None)


def _brackets(rng: Random, p: SimpleNamespace) -> tuple[str]:
    o, c = p.pair
    good = rng.choice([o + c, o + o + c + c, o + c + o + c, "x" + o + "y" + c, "", o + o + c + o + c + c])
    bad = rng.choice([c + o, o, o + o + c, c, o + c + c + o, o + c + c])
    return (rng.choice([good, bad]),)


def _balanced(p: SimpleNamespace, a: str) -> bool:
    text, before = "".join(c for c in a if c in p.pair), None
    while text != before:
        text, before = text.replace(p.pair, ""), text
    return text == ""


def _longest_run(p: SimpleNamespace, a: list[Any]) -> int:
    return max((len(list(group)) for _, group in itertools.groupby(a)), default=0)


def _bits(rng: Random, p: SimpleNamespace) -> tuple[list[int]]:
    return ([x for _ in range(rng.randint(0, 5)) for x in [rng.randint(0, 2)] * rng.randint(1, 4)],)


def _code(p: SimpleNamespace, a: str) -> str:
    parts = [(c, str(len(list(group)))) for c, group in itertools.groupby(a)]
    return "".join(c + n if p.order == "letter" else n + c for c, n in parts)


def _turned(p: SimpleNamespace, a: list[list[int]]) -> list[list[int]]:
    return [[row[i] for row in a] for i in range(len(a[0]))]


FAMILIES = [
    Family(
        "bubble_sort", (SHUFFLED,),
        "for i in range(len($a)):\n    for j in range(len($a) - 1 - i):\n        if $a[j] $order $a[j + 1]:\n"
        "            $a[j], $a[j + 1] = $a[j + 1], $a[j]\nreturn $a",
        ("[sort] $a with bubble sort in $order order", "[use] bubble sort to put $a in $order order",
         "[order] $a by bubble sort, $order", "[return] $a sorted by swapping neighbours (bubble sort), $order",
         "[run] bubble sort over $a so that it ends up in $order order",
         "[arrange] $a in $order order with the bubble sort algorithm",
         "[swap] neighbours in $a that stand wrong until the whole list is $order (bubble sort)",
         "[bring] the items of $a into $order order, using bubble sort",
         "[apply] bubble sort to $a and [give] back the $order result", "[do] a bubble sort of $a, $order"),
        ("[use] bubble sort to return $a in $order order", "[put] $a in $order order by bubble sort"),
        lambda p, a: sorted(a, reverse=p.order), {"order": ORDER}, ("bubble", "sort_bubble", "swap_sort"),
    ),
    Family(
        "insertion_sort", (SHUFFLED,),
        "result = []\nfor x in $a:\n    i = 0\n    while i < len(result) and x $order result[i]:\n        i += 1\n"
        "    result.insert(i, x)\nreturn result",
        ("[sort] $a with insertion sort in $order order", "[use] insertion sort to put $a in $order order",
         "[insert] each item of $a at its place in a new list, $order",
         "[return] $a in $order order by insertion sort",
         "[arrange] the items of $a in $order order by the insertion sort method",
         "[build] a new list from $a, placing each item where it belongs in $order order (insertion sort)",
         "[apply] insertion sort to $a so that the result is $order",
         "[take] $a item by item and [insert] each where it keeps a new list $order",
         "[run] insertion sort over $a, with the items $order at the end",
         "[do] an insertion sort of $a into a new list in $order order"),
        ("[put] $a in $order order with insertion sort", "[use] insertion sort to return $a, $order"),
        lambda p, a: sorted(a, reverse=p.order), {"order": ORDER}, ("insert_sort", "sort_insert", "place_each"),
    ),
    Family(
        "binary_search", (SORTED, TARGET),
        "low, high = 0, len($a) - 1\nwhile low <= high:\n    mid = (low + high) // 2\n    if $a[mid] == $b:\n"
        "        return mid\n"
        "    if $a[mid] < $b:\n        low = mid + 1\n    else:\n        high = mid - 1\nreturn $miss",
        ("[find] the index in $a of $b by binary search, or $miss",
         "[use] binary search on $a for $b and [return] its index or $miss",
         "[search] $a for $b by halving and [return] the index, or $miss if missing",
         "[look] through $a for $b by binary search, with $miss if it is not there",
         "[halve] the range in $a until $b is found and [give] its index, or $miss if it is missing",
         "[locate] $b in $a by binary search; the answer is its index, or $miss when there is none",
         "[run] a binary search over $a and [return] where $b stands, or $miss",
         "[tell] at which index $a has $b, or [give] $miss, with binary search",
         "[apply] binary search to $a and $b and [return] the index, with $miss for a value that is not there",
         "[get] the position of $b in $a by looking at the middle again and again, or $miss"),
        ("[search] $a for $b with binary search and [return] its index, or $miss",
         "[use] binary search on $a to find $b, with $miss if missing"),
        _found, {"miss": choice(("-1", "-1", -1), ("None", "None", None))}, ("bisect", "find_sorted", "half_search"),
        inputs=_search,
    ),
    Family(
        "merge_sorted", (SORTED, MORE),
        "result = []\nwhile $a and $b:\n    if $a[0] <= $b[0]:\n        result.append($a.pop(0))\n    else:\n"
        "        result.append($b.pop(0))\nreturn result + $a + $b",
        ("[merge] $a and $b into one sorted list", "[combine] $a and $b so that the result is sorted",
         "[take] the smaller first item of $a and $b until both are merged", "[return] the sorted merge of $a and $b",
         "[join] $a with $b and [keep] the order sorted",
         "[put] all items of $a and $b together in one list that stays sorted",
         "[build] one sorted list out of $a and $b by merging",
         "[go] through $a and $b side by side and always [take] the smaller item",
         "[give] back every item of $a and $b in sorted order",
         "[mix] $a and $b so that all their items come in ascending order"),
        ("[combine] $a and $b into one sorted list", "[return] $a and $b merged into one sorted list"),
        lambda p, a, b: sorted([*a, *b]), names=("merge_lists", "sorted_merge", "join_sorted"),
    ),
    Family(
        "two_sum", (SOME,),
        "for i in range(len($a)):\n    for j in range(i + 1, len($a)):\n"
        "        if $a[i] + $a[j] == $n:\n            return i, j\nreturn None",
        ("[find] two indexes in $a whose values sum to $n, or None",
         "[return] the positions of two numbers in $a that add up to $n, else None",
         "[search] $a for a pair with sum $n and [return] both indexes, or None",
         "[solve] two sum on $a with target $n",
         "[look] for two values in $a that make $n together and [give] their positions, or None",
         "[tell] which two indexes of $a hold numbers that total $n, or [return] None",
         "[get] the first pair of indexes in $a whose numbers sum up to $n, None if there is no such pair",
         "[try] every pair of numbers in $a until one adds up to $n and [return] its indexes, else None",
         "[check] all pairs of $a for the sum $n and [give] back the two positions, or None",
         "[locate] a pair of numbers in $a that makes $n and [return] where both stand, or None"),
        ("[search] $a for two numbers that add up to $n and [return] both indexes, else None",
         "[return] the indexes of a pair in $a with sum $n, or None"),
        _two_sum, {"n": numbers(5, 99)}, ("pair_sum", "find_pair", "sum_pair"), inputs=_with_pair,
    ),
    Family(
        "run_length", (RUNS,),
        "result = ''\ni = 0\nwhile i < len($a):\n    j = i\n    while j < len($a) and $a[j] == $a[i]:\n        j += 1\n"
        "    result += $order\n    i = j\nreturn result",
        ("[encode] $a by run length, $order", "[compress] $a with run-length encoding, $order",
         "[return] each run of equal characters in $a in short form, $order", "[pack] $a by run length, $order",
         "[shorten] $a so that each run of a letter becomes that letter and its count, $order",
         "[replace] every run of the same character in $a by one short code, $order",
         "[write] $a as runs, each with its character and how often it comes, $order",
         "[apply] run-length encoding to $a with $order", "[turn] $a into its run-length code, $order",
         "[count] the equal characters that follow each other in $a and [join] the results, $order"),
        ("[compress] each run of equal characters in $a, $order", "[return] $a with run-length encoding, $order"),
        _code, {"order": choice(("letter before count", "$a[i] + str(j - i)", "letter"),
                                ("count before letter", "str(j - i) + $a[i]", "count"))},
                                ("rle", "encode_runs", "compress"),
    ),
    Family(
        "balanced", (TEXT,),
        "depth = 0\nfor c in $a:\n    if c == $pair:\n        depth += 1\n    elif c == $pair2:\n        depth -= 1\n"
        "    if depth < 0:\n        return False\nreturn depth == 0",
        ("[check] whether the $pair in $a are balanced", "[return] True if all $pair in $a match",
         "[tell] whether every one of the $pair in $a is closed", "[test] if $a has balanced $pair",
         "[decide] if the $pair of $a are opened and closed in the right order",
         "[find] out whether all $pair in $a come in matching pairs",
         "[determine] whether each of the $pair that $a opens is closed again, and none too early",
         "[give] back True when the $pair in $a are balanced and False when they are not",
         "[look] at the $pair in $a and [say] whether they match up",
         "[return] False if any of the $pair in $a has no partner, else True"),
        ("[tell] whether the $pair in $a match", "[test] if every one of the $pair in $a is balanced"),
        _balanced,
        {"pair": choice(("parentheses|round brackets", "'(' ~ ')'", "()"), ("square brackets", "'[' ~ ']'", "[]"),
                                   ("braces|curly brackets", "'{' ~ '}'", "{}"),
                        ("angle brackets", "'<' ~ '>'", "<>"))},
        ("check_brackets", "is_balanced", "match_pairs"), inputs=_brackets,
    ),
    Family(
        "transpose", (MATRIX,), "return [[row[i] for row in $a] for i in range(len($a[0]))]",
        ("[transpose] $a", "[swap] the rows and columns of $a", "[turn] the columns of $a into rows",
         "[return] $a with rows as columns", "[flip] $a over its main diagonal", "[exchange] rows and columns in $a",
         "[make] every column of $a a row of the result", "[give] back the transpose of $a",
         "[build] a new matrix whose rows are the columns of $a", "[change] $a so that each row becomes a column"),
        ("[turn] the rows of $a into columns", "[return] $a with its rows and columns swapped"),
        _turned, names=("flip_matrix", "swap_axes", "columns"),
    ),
    Family(
        "sieve", (LIMIT,),
        "primes = []\nfor i in range(2, $a$end):\n    if all(i % x != 0 for x in primes):\n"
        "        primes.append(i)\nreturn primes",
        ("[list] all primes $end $a", "[return] the prime numbers $end $a", "[find] every prime number $end $a",
         "[collect] the primes $end $a", "[give] back a list of the primes $end $a",
         "[get] each number $end $a that is prime", "[work] out which numbers $end $a are prime",
         "[go] through the numbers $end $a and [keep] the primes",
         "[make] a list of the numbers $end $a that have exactly two divisors"),
        ("[collect] all prime numbers $end $a", "[return] every prime $end $a"),
        lambda p, n: [i for i in range(2, n + p.end) if sum(i % d == 0 for d in range(1, i + 1)) == 2],
        {"end": choice(("below|less than", "", 0), ("up to and including|not above", " + 1", 1))},
        ("primes", "prime_list", "find_primes"),
        inputs=lambda rng, p: (rng.choice([2, 3, 5, 7, 11, 13, 19, 23, rng.randint(2, 50)]),),
    ),
    Family(
        "longest_run", (ITEMS,),
        "best = 0\ncount = 0\nfor i, x in enumerate($a):\n    count = count + 1 if i > 0 and x == $a[i - 1] else 1\n"
        "    best = max(best, count)\nreturn best",
        ("[find] the length of the longest run of equal items in $a",
         "[return] how many equal items follow each other at most in $a", "[measure] the longest run in $a",
         "[compute] the length of the longest series of equal neighbours in $a",
         "[tell] how long the longest streak of the same value in $a is",
         "[count] the most equal items that stand side by side in $a",
         "[determine] how often one item comes in a row in $a at most",
         "[get] the size of the biggest group of equal neighbours in $a",
         "[look] for the longest run in $a, where all items are the same, and [return] its length",
         "[work] out the greatest number of equal items in a row in $a"),
        ("[measure] the longest run of equal items in $a", "[return] the length of the longest run in $a"),
        _longest_run, names=("run_size", "max_run", "longest_streak"), inputs=_bits,
    ),
]  # fmt: skip
