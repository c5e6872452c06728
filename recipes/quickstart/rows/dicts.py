"""Tasks on dictionaries."""

from __future__ import annotations

import collections
import operator
from random import Random
from types import SimpleNamespace
from typing import Any

from rows.lists import COMPARE
from rows.pools import TABLE, TEXTS, WORDS, choice, numbers, some_text, texts, words
from rows.shapes import Arg, Family

LETTERED = Arg(("text", "line", "phrase"), ("sentence", "message"), ("a text", "a string", "the text"), some_text(1, 5))
RECORDS = Arg(("rows", "records", "items", "data"), ("people", "orders"),
              ("a list of dicts", "a list of records", "the list of dicts"), lambda rng, season: [])  # fmt: skip
MORE = Arg(("other", "second", "extra"), ("twin", "update"), ("another dict", "a second dict"), TABLE.sample)
FIELDS = texts(["age", "price", "size", "score", "count", "year", "weight", "total", "rank", "level"],
               ["height", "salary", "speed"])  # fmt: skip


def _unique_values(rng: Random, p: SimpleNamespace) -> tuple[dict[str, int]]:
    keys = rng.sample(WORDS, rng.randint(1, 6))
    return (dict(zip(keys, rng.sample(range(1, 90), len(keys)), strict=True)),)


def _two_tables(rng: Random, p: SimpleNamespace) -> tuple[dict[str, int], dict[str, int]]:
    keys = rng.sample(WORDS, 5)
    return tuple({k: rng.randint(1, 30) for k in rng.sample(keys, 3)} for _ in range(2))  # type: ignore[return-value]


def _records(rng: Random, p: SimpleNamespace) -> tuple[list[dict[str, int]]]:
    near = getattr(p, "n", 20)
    return ([{"id": i, p.w: max(0, near + rng.randint(-3, 3) * rng.randint(0, 4))} for i in range(rng.randint(0, 5))],)


def _merged(p: SimpleNamespace, a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    result = {}
    for k in [*a, *(k for k in b if k not in a)]:
        result[k] = (b if k in b else a)[k] if p.winner == "second" else (a if k in a else b)[k]
    return result


def _grouped(p: SimpleNamespace, a: list[str]) -> dict[Any, list[str]]:
    return {p.key(x): [y for y in a if p.key(y) == p.key(x)] for x in a}


def _in_order(p: SimpleNamespace, a: dict[str, int]) -> list[str]:
    return [k for _, k in sorted(((v, k) for k, v in a.items()), reverse=p.order)]


FAMILIES = [
    Family(
        "count_parts", (LETTERED,), "counts = {}\nfor x in $part:\n    counts[x] = counts.get(x, 0) + 1\nreturn counts",
        ("[count] how often each $part occurs in $a, as a dict",
         "[return] a dict with the number of times each $part is in $a",
         "[build] a dictionary that counts each $part of $a", "[map] every $part in $a to its count",
         "[tally] each $part of $a in a dict", "[return] a mapping from each $part in $a to how often it occurs",
         "[go] through $a and [count] every $part, with the counts in a dictionary",
         "[make] a dictionary with each $part of $a as key and its count as value",
         "[find] how many times each $part occurs in $a and [return] a dict",
         "[collect] the frequency of every $part in $a as a dict"),
        ("[return] a dictionary with the count of each $part in $a",
         "[build] a dict of how often each $part occurs in $a"),
        lambda p, a: dict(collections.Counter(p.part(a))),
        {"part": choice(("word", "$a.split()", lambda a: a.split(" ")), ("character", "$a", list),
                        ("lower-case word", "$a.lower().split()", lambda a: [w.lower() for w in a.split(" ")]))},
        ("word_counts", "tally", "frequencies"),
        inputs=lambda rng, p: (" ".join(rng.choice(["The", "the", "Cat", "cat", "a", "sat", "A"])
                                        for _ in range(rng.randint(1, 6))),),
    ),
    Family(
        "invert_dict", (TABLE,), "return {v: k for k, v in $a.items()}",
        ("[swap] the keys and values of $a", "[invert] $a so that values become keys",
         "[return] $a with keys and values swapped",
         "[map] each value of $a back to its key", "[exchange] keys and values in $a",
         "[turn] $a around, so that what is a value becomes the key",
         "[build] a dictionary from each value in $a to its key",
         "[flip] $a so that each key becomes a value and each value a key",
         "[use] the values of $a as keys of a new dict and the keys as its values",
         "[reverse] the direction of $a, so that every value points to its key"),
        ("[invert] $a so that each value is a key", "[return] $a with its values as keys and its keys as values"),
        lambda p, a: dict(zip(a.values(), a.keys(), strict=True)), names=("invert", "swap_keys", "reverse_mapping"),
        inputs=_unique_values,
    ),
    Family(
        "merge_dicts", (TABLE, MORE), "return {**$winner}",
        ("[merge] $a and $b, where the $winner one wins",
         "[combine] $a and $b into one dict, with values of the $winner first",
         "[join] $a with $b and [prefer] the $winner for shared keys",
         "[return] all keys of $a and $b, where the $winner one decides shared keys",
         "[put] $a and $b together in a single dict, so that the $winner has priority",
         "[return] a dict with the entries of $a and $b, taking shared keys from the $winner",
         "[unite] $a with $b and [let] the $winner one win where both have a key",
         "[build] one dictionary out of $a and $b, where values of the $winner one count for common keys",
         "[make] a dict from both $a and $b, with the value of the $winner if both have the key",
         "[merge] $a and $b, but on a conflict [keep] the value of the $winner one"),
        ("[combine] $a and $b, where the $winner one wins for shared keys",
         "[merge] $a with $b into one dict and [prefer] the $winner"),
        _merged, {"winner": choice(("second", "$a, **$b", "second"), ("first", "$b, **$a", "first"))},
        ("merge", "combine_dicts", "join_tables"), inputs=_two_tables,
    ),
    Family(
        "filter_dict", (TABLE,), "return {k: v for k, v in $a.items() if v $op $n}",
        ("[keep] the entries of $a whose value is $op $n", "[return] the part of $a with values $op $n",
         "[filter] $a so that only values $op $n stay", "[drop] all keys of $a whose value is not $op $n",
         "[choose] the items of $a with a value that is $op $n",
         "[remove] every entry from $a unless its value is $op $n",
         "[make] a dict of those entries in $a whose values are $op $n",
         "[look] in $a for keys with a value $op $n and [keep] them",
         "[return] only the keys and values of $a where the value is $op $n",
         "[pick] from $a the pairs whose value is $op $n and [return] them as a dict"),
        ("[return] the entries of $a with a value $op $n", "[filter] $a for entries whose value is $op $n"),
        lambda p, a: dict(kv for kv in a.items() if p.op(kv[1], p.n)), {"op": COMPARE, "n": numbers(0, 99)},
        ("filter_table", "pick_entries", "keep_entries"),
    ),
    Family(
        "group_words", (TEXTS,), "groups = {}\nfor w in $a:\n    groups.setdefault($key, []).append(w)\nreturn groups",
        ("[group] $a by $key", "[return] a dict from $key to the words of $a that have it",
         "[collect] $a in lists by $key",
         "[build] a dictionary of $a grouped by $key", "[sort] $a into groups with the same $key, as a dict",
         "[make] a dict that maps each $key to the items of $a with it",
         "[split] $a into lists by $key and [return] them in a dictionary",
         "[return] for each $key the list of items in $a that share it, as a dict",
         "[arrange] $a in a dictionary of lists, with the $key as key",
         "[put] all items of $a that have the same $key in one list of a dict"),
        ("[return] a dictionary with $a in groups by $key", "[build] a dict of lists from $a by $key"),
        _grouped, {"key": choice(("first letter", "w[0]", lambda w: w[:1]), ("last letter", "w[-1]", lambda w: w[-1:]),
                                 ("length", "len(w)", len), ("lower-case form", "w.lower()", str.lower))},
        ("group_by", "bucket", "sort_in_groups"),
        inputs=lambda rng, p: ([rng.choice(["Ann", "ann", "Bob", "tea", "ten", "ANN", "noon", "bob"])
                                for _ in range(rng.randint(2, 6))],),
    ),
    Family(
        "get_value", (TABLE,), "return $a.get($w, $n)",
        ("[look] up $w in $a, or [return] $n if it is missing", "[return] the value of $w in $a with $n as default",
         "[get] the entry $w of $a, else $n", "[read] key $w from $a and [use] $n when it is not there",
         "[find] the value that $a has for $w, or [use] $n if there is none",
         "[return] what $a stores under $w, else $n",
         "[fetch] $w from $a and [fall] back to $n when the key is missing",
         "[give] the value at key $w of $a, or $n if $a has no such key",
         "[check] $a for the key $w and [return] its value, or $n if it is absent",
         "[take] the value of the key $w from $a, with $n in case it does not exist"),
        ("[get] the value of $w in $a, or $n when it is missing", "[look] up the key $w of $a with default $n"),
        lambda p, a: {p.w: p.n, **a}[p.w], {"w": words(), "n": numbers(0, 99)},
        ("lookup", "read_key", "value_or"),
    ),
    Family(
        "dict_total", (TABLE,), "return $op($a.$what())",
        ("[return] the $op of the $what in $a", "[find] the $op of all $what of $a",
         "[compute] the $op over the $what of $a",
         "[give] the $op of $a by its $what", "[take] all $what of $a and [give] back the $op",
         "[use] the $what in $a to work out the $op", "[look] at the $what of $a and [find] the $op of them",
         "[return] the $op of all the $what that $a has", "[calculate] the $op for the $what of $a",
         "[get] the $op of everything that $a has as $what"),
        ("[compute] the $op of all the $what in $a", "[return] the $op over all $what of $a"),
        lambda p, a: p.op(list(a.values()) if p.what == "values" else list(a)), {
            "op": choice(("sum|total", "sum", lambda v: sum(reversed(v))),
                         ("largest|maximum", "max", lambda v: sorted(v)[-1]),
                         ("smallest|minimum", "min", lambda v: sorted(v)[0]), ("sorted list", "sorted", sorted)),
            "what": choice(("values", "values", "values"), ("keys", "keys", "keys"))},
        ("over_dict", "table_total", "dict_stat"), where=lambda p: p.what == "values" or p.op([2, 1]) != 3,
    ),
    Family(
        "rank_keys", (TABLE,), "return sorted($a, key=$a.get$order)",
        ("[sort] the keys of $a by value, $order first", "[list] the keys of $a from $order value on",
         "[return] the keys of $a ordered by value with the $order first", "[rank] the keys of $a, $order value first",
         "[order] the keys of $a by their values, starting with the $order",
         "[return] a list of the keys in $a, the one with the $order value first",
         "[put] the keys of $a in order of value, from the $order on",
         "[arrange] the keys of $a so that the one with the $order value comes first and so on",
         "[give] all keys of $a in a list sorted by value, where the $order leads",
         "[compare] the keys of $a by value and [list] them with the $order at the start"),
        ("[list] the keys of $a by value with the $order first",
         "[return] the keys of $a sorted by value, $order first"),
        _in_order, {"order": choice(("smallest|lowest", "", False), ("largest|highest", ", reverse=True", True))},
        ("sort_keys", "ranking", "keys_by_value"), inputs=_unique_values,
    ),
    Family(
        "change_values", (TABLE,), "return {k: v $op $n for k, v in $a.items()}",
        ("[return] $a with every value $op $n", "[make] a dict from the keys of $a to each value $op $n",
         "[build] a copy of $a where all values are $op $n", "[give] back $a with all its values $op $n",
         "[map] each key of $a to its value $op $n", "[take] every value in $a $op $n and [keep] the keys",
         "[return] a dict like $a, but with each value $op $n", "[keep] the keys of $a, but [take] all values $op $n",
         "[produce] a new dictionary where each key of $a has its value $op $n",
         "[compute] all values of $a $op $n and [return] them under the same keys"),
        ("[build] a dict with the keys of $a and each value $op $n", "[return] a copy of $a with all values $op $n"),
        lambda p, a: dict(zip(a, [p.op(v, p.n) for v in a.values()], strict=True)),
        {"op": choice(("multiplied by|times", "*", operator.mul), ("plus|increased by", "+", operator.add),
                      ("minus|decreased by", "-", operator.sub)), "n": numbers(2, 60)},
        ("map_values", "scale_dict", "adjust_values"),
    ),
    Family(
        "total_field", (RECORDS,), "return $op(row[$w] for row in $a)",
        ("[return] the $op of the field $w over $a", "[compute] the $op of $w in all rows of $a",
         "[find] the $op of $w for the records in $a", "[take] $w from every row of $a and [return] the $op",
         "[go] over the rows of $a and [return] the $op of $w", "[calculate] the $op of $w across $a",
         "[collect] $w from all records in $a and [give] back the $op",
         "[work] out the $op of $w among the records in $a",
         "[get] the $op of the values that the rows of $a have under the field $w",
         "[look] at the key $w of each record in $a and [find] the $op"),
        ("[compute] the $op of the field $w for all records of $a", "[find] the $op over $a of the field $w"),
        lambda p, a: p.op([row[p.w] for row in a]), {
            "op": choice(("sum|total", "sum", lambda v: sum(reversed(v))),
                         ("largest|maximum", "max", lambda v: sorted(v)[-1]),
                         ("smallest|minimum", "min", lambda v: sorted(v)[0])), "w": FIELDS},
        ("field_total", "over_rows", "column_stat"), inputs=_records,
    ),
]  # fmt: skip
