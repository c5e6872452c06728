"""Tasks that catch an exception or raise one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rows.pools import ITEMS, NUMBERS, TABLE, TEXTS, WHOLE, WORD, choice, number, numbers, quoted, texts, words
from rows.shapes import Arg, Family, Slot

TOP = Arg(("a", "x", "top", "left"), ("one", "p"), ("a number", "one number"), lambda rng, season: rng.randint(0, 40))
BOTTOM = Arg(("b", "y", "bottom", "right"), ("two", "q"), ("another number", "a second number"),
             lambda rng, season: rng.choice([0, 0, 1, 2, 4, 5, 8]))  # fmt: skip
DEFAULT = Slot(
    (*map(number, (0, 1, -1, 2, 5, 10, 99, 100)), quoted("none"), quoted("error")), tuple(map(number, (13, 27, 48)))
)
COMPARE = choice(
    ("less than|below", "<", lambda x, n: not x >= n), ("greater than|above", ">", lambda x, n: not x <= n),
    ("at most", "<=", lambda x, n: not x > n), ("at least", ">=", lambda x, n: not x < n),
)  # fmt: skip
MESSAGES = texts(["too low", "too big", "bad value", "not allowed", "wrong", "out of range", "no good", "stop"],
                 ["too wild", "not here", "refused"])  # fmt: skip
DIGITS = ["12", "7", "-3", "abc", "", "4.5", "x1", "100", "0.25", "two", " 8 "]


def _is_number(text: str, kind: Any) -> bool:
    body = text.strip().removeprefix("-")
    whole, dot, part = body.partition(".")
    return whole.isdigit() and (not dot or (kind is float and part.isdigit()))


def _parsed(p: SimpleNamespace, a: str) -> Any:
    return p.kind(a) if _is_number(a, p.kind) else p.n


def _guarded(p: SimpleNamespace, a: int) -> Any:
    if p.op(a, p.n):
        raise ValueError(p.w)
    return p.m * a


def _of_some(p: SimpleNamespace, a: list[int]) -> Any:
    if len(a) == 0:
        raise ValueError(p.w)
    return p.op(a)


def _parse_all(p: SimpleNamespace, a: list[str]) -> list[Any]:
    return [p.kind(x) if _is_number(x, p.kind) else p.fail for x in a if p.fail != "skip" or _is_number(x, p.kind)]


FAMILIES = [
    Family(
        "safe_divide", (TOP, BOTTOM), "try:\n    return $a $op $b\nexcept ZeroDivisionError:\n    return $n",
        ("[return] $a $op2 by $b, or $n when $b is zero", "[give] $a $op2 by $b with $n on division by zero",
         "[compute] $a $op2 by $b and [catch] division by zero with $n",
         "[try] to $op $a by $b and [give] $n if $b is 0",
         "[get] $a $op2 by $b, and [fall] back to $n where $b is zero",
         "[return] $a $op2 by $b and [answer] a ZeroDivisionError with $n",
         "[work] out what $a $op2 by $b is; if $b is 0, the result is $n",
         "[use] try and except to $op $a by $b, with $n as the result for division by zero",
         "[find] the result of $a $op2 by $b, with $n as default if dividing by zero fails",
         "[calculate] $a $op2 by $b without an error: $n if $b is 0"),
        ("[try] to $op $a by $b, or [return] $n on division by zero", "[return] $a $op2 by $b, but $n when $b is zero"),
        lambda p, a, b: p.n if b == 0 else p.op(a, b),
        {"n": DEFAULT, "op": choice(("divide ~ divided", "/", lambda x, y: x * (1 / y) if y in (1, 2, 4, 8) else x / y),
                                    ("floor divide ~ floor divided", "//", lambda x, y: (x - x % y) // y))},
        ("divide_or", "try_divide", "divide"),
    ),
    Family(
        "parse_number", (WORD,), "try:\n    return $kind($a)\nexcept ValueError:\n    return $n",
        ("[parse] $a as $kind, or [return] $n if that fails", "[convert] $a to $kind and [return] $n on a ValueError",
         "[turn] $a into $kind with $n as default for bad text", "[read] $a as $kind and [give] $n if it is no number",
         "[make] $kind out of $a, or [fall] back to $n for bad text",
         "[try] to get $kind from $a and [catch] the ValueError with $n",
         "[return] $a as $kind if it can be read so, else $n",
         "[change] $a into $kind where possible and [return] $n where it is not",
         "[take] $a for $kind, but [answer] with $n when Python cannot convert it",
         "[use] try and except to convert $a to $kind; when this fails the result is $n"),
        ("[convert] $a to $kind, or [give] $n if that fails", "[read] $a as $kind with $n as default on a ValueError"),
        _parsed, {"n": DEFAULT, "kind": choice(("an integer|an int", "int", int), ("a float", "float", float))},
        ("parse_or", "to_number", "safe_parse"), inputs=lambda rng, p: (rng.choice(DIGITS),),
    ),
    Family(
        "key_or", (TABLE,), "try:\n    return $a[$w]\nexcept KeyError:\n    return $n",
        ("[return] $a at key $w and [catch] the KeyError with $n",
         "[try] to read $w from $a and [return] $n on a KeyError", "[use] try and except to get $w of $a, or $n",
         "[take] the value under $w in $a, with $n on a KeyError",
         "[look] up $w in $a and [fall] back to $n on a KeyError",
         "[fetch] the value for key $w from $a and [catch] a KeyError with $n instead",
         "[give] back what $a holds under $w, or $n if a KeyError comes up",
         "[ask] $a for its key $w and [answer] a KeyError with $n",
         "[return] $n if reading key $w of $a raises a KeyError, else the value",
         "[use] try and except so that a missing $w in $a gives $n and not a KeyError"),
        ("[use] try and except to read key $w from $a, or [return] $n",
         "[try] to get $w of $a and [give] $n on a KeyError"),
        lambda p, a: {p.w: p.n, **a}[p.w], {"w": words(), "n": DEFAULT}, ("try_key", "safe_key", "read_or"),
    ),
    Family(
        "item_or", (ITEMS,), "try:\n    return $a[$i]\nexcept IndexError:\n    return $n",
        ("[return] the item of $a at index $i, or $n if $a is too short",
         "[try] to get index $i of $a and [return] $n on an IndexError", "[read] position $i of $a with $n as default",
         "[take] item $i from $a and [give] $n when there is none",
         "[fetch] what stands at index $i in $a, or $n if an IndexError comes up",
         "[look] at index $i of $a and [fall] back to $n when the list ends before",
         "[give] the item at index $i in $a; if there is none, the answer is $n",
         "[use] try and except to get the item at index $i in $a, or $n",
         "[ask] $a for index $i and [answer] an IndexError with $n",
         "[return] $n if $a has no index $i, else the item there"),
        ("[try] to take the item of $a at index $i, or [give] $n when $a is too short",
         "[read] index $i of $a and [return] $n on an IndexError"),
        lambda p, a: list(a)[p.i] if len(a) > p.i else p.n, {"i": numbers(0, 9), "n": DEFAULT},
        ("safe_get", "at_or", "get_item"),
        inputs=lambda rng, p: (rng.sample(range(200, 260), p.i + rng.randint(-1, 2) + (not p.i)),),
    ),
    Family(
        "check_value", (WHOLE,), "if $a $op $n:\n    raise ValueError($w)\nreturn $a * $m",
        ("[raise] ValueError $w if $a is $op $n, else [return] $a times $m",
         "[return] $a times $m but [raise] a ValueError with $w when $a is $op $n",
         "[refuse] $a $op $n with ValueError $w and otherwise [return] it times $m",
         "[check] that $a is not $op $n (ValueError $w) and [return] $m times $a",
         "[multiply] $a by $m, unless it is $op $n: then [raise] ValueError $w",
         "[stop] with ValueError $w if $a is $op $n, or else [give] it times $m",
         "[reject] $a with ValueError $w if it is $op $n, and [return] it multiplied by $m if not",
         "[test] if $a is $op $n; if so, [raise] ValueError $w, if not, [return] $m times it",
         "[make] sure that $a is not $op $n, with ValueError $w if it is, then [return] it times $m",
         "[fail] with a ValueError that says $w if $a is $op $n, and otherwise [give] $m times it"),
        ("[return] $m times $a, and [raise] ValueError $w when $a is $op $n",
         "[raise] a ValueError with $w when $a is $op $n and otherwise [return] $a times $m"),
        _guarded, {"op": COMPARE, "n": numbers(0, 99), "m": numbers(2, 12), "w": MESSAGES},
        ("guard", "checked", "require"), raises=True,
    ),
    Family(
        "of_some", (NUMBERS,), "if not $a:\n    raise ValueError($w)\nreturn $op($a)",
        ("[return] the $op of $a and [raise] ValueError $w if it is empty",
         "[raise] a ValueError with $w when $a is empty, else [return] its $op",
         "[find] the $op of $a, with ValueError $w when $a is empty",
         "[refuse] an empty list with ValueError $w and [return] the $op of $a",
         "[compute] the $op of $a, but [stop] with ValueError $w if there are no numbers",
         "[give] back the $op of $a unless it is empty: then [raise] a ValueError with $w",
         "[fail] with ValueError $w when $a has no items and [give] its $op when it has some",
         "[check] that $a is not empty (ValueError $w) and [return] its $op",
         "[get] the $op from $a; an empty list is a ValueError that says $w",
         "[test] if $a is empty, [raise] ValueError $w if so and [return] its $op if not"),
        ("[find] the $op of $a and [refuse] an empty list with ValueError $w",
         "[return] the $op of $a, with a ValueError $w if it is empty"),
        _of_some,
        {"op": choice(("sum|total", "sum", lambda v: sum(reversed(v))),
                      ("largest value|maximum", "max", lambda v: sorted(v)[-1]),
                                ("smallest value|minimum", "min", lambda v: sorted(v)[0])), "w": MESSAGES},
        ("need_some", "not_empty", "strict_stat"), raises=True,
    ),
    Family(
        "parse_all", (TEXTS,),
        "result = []\nfor x in $a:\n    try:\n        result.append($kind(x))\n"
        "    except ValueError:\n        $fail\nreturn result",
        ("[convert] the strings in $a to $kind and $fail those that fail",
         "[parse] every item of $a as $kind and $fail bad ones",
         "[turn] $a into a list of $kind and $fail what is no number",
         "[read] all of $a as $kind and $fail every ValueError",
         "[make] $kind out of the strings in $a and $fail all strings where this fails",
         "[go] through $a, [parse] the strings as $kind and $fail the ones with a ValueError",
         "[try] to convert the items of $a to $kind and $fail any bad string",
         "[return] the items of $a as $kind and $fail those which cannot be read",
         "[change] all strings of $a into $kind, [catch] each ValueError and $fail that item",
         "[get] a list of $kind from $a and $fail whatever fails to parse"),
        ("[take] the strings in $a as $kind and $fail bad ones",
         "[turn] every item of $a into $kind and $fail those that fail"),
        _parse_all, {"kind": choice(("integers|ints", "int", int), ("floats", "float", float)),
                     "fail": choice(("[skip]", "continue", "skip"), ("[use] 0 for", "result.append(0)", 0),
                                    ("[use] None for", "result.append(None)", None),
                                    ("[use] -1 for", "result.append(-1)", -1))},
        ("parse_list", "to_numbers", "convert_all"),
        inputs=lambda rng, p: ([rng.choice(DIGITS) for _ in range(rng.randint(1, 5))],),
    ),
]  # fmt: skip
