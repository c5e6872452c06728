"""Tasks on numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from random import Random
from types import SimpleNamespace

from rows.pools import WHOLE, a_number, choice, numbers, words
from rows.shapes import Arg, Family, Slot, Value

POSITIVE = Arg(WHOLE.names, WHOLE.held, WHOLE.nouns, a_number(1, 400))
LARGE = Arg(WHOLE.names, WHOLE.held, WHOLE.nouns, a_number(100, 99999))
SMALL = Arg(WHOLE.names, WHOLE.held, WHOLE.nouns, a_number(0, 15))
FIRST = Arg(("a", "x", "first", "left"), ("one", "p"), ("a number", "one number"), a_number(1, 90))
OTHER = Arg(("b", "y", "second", "right"), ("two", "q"), ("another number", "a second number"), a_number(1, 90))

UNITS = Slot(
    tuple(Value(said, "", (said,)) for said in (
        "miles ~ meters ~ mile", "boxes ~ items ~ box", "hours ~ minutes ~ hour", "weeks ~ hours ~ week",
        "coins ~ points ~ coin", "pages ~ lines ~ page", "feet ~ inches ~ foot")),
    tuple(Value(said, "", (said,)) for said in ("barrels ~ cups ~ barrel", "tons ~ stones ~ ton")),
)  # fmt: skip


def _pair(rng: Random, p: SimpleNamespace) -> tuple[int, int]:
    common = rng.choice([1, 2, 3, 4, 6, 7, 12])
    return common * rng.randint(1, 15), common * rng.randint(1, 15)


def _prime(p: SimpleNamespace, n: int) -> bool:
    return sum(n % i == 0 for i in range(1, n + 1)) == 2


def _fib(p: SimpleNamespace, n: int) -> int:
    values: list[int] = [p.n, p.m]
    while len(values) <= n:
        values.append(sum(values[-2:]))
    return values[n]


def _digits_in(p: SimpleNamespace, n: int) -> str:
    powers = [p.n**i for i in range(20) if p.n**i <= n]
    return "".join(str(n // power % p.n) for power in reversed(powers))


def _collatz(p: SimpleNamespace, n: int) -> int:
    return 0 if n == 1 else 1 + _collatz(p, n // 2 if n % 2 == 0 else 3 * n + 1)


def _rounded(p: SimpleNamespace, n: int) -> int:
    way = {"down": math.floor, "up": math.ceil}[p.way]
    steps: int = way(Fraction(n, p.n))
    return steps * int(p.n)


FAMILIES = [
    Family(
        "digit_sum", (LARGE,), "total = $op\nwhile $a > 0:\n    total $op2= $a % 10\n    $a //= 10\nreturn total",
        ("[return] the $op of the digits of $a", "[compute] the $op of all digits in $a", "[find] the digit $op of $a",
         "[take] $a and [give] the $op of its digits", "[work] out the $op of the single digits that make up $a",
         "[go] through $a digit by digit and [give] back the $op", "[split] $a into its digits and [return] their $op",
         "[get] the $op that all the digits of $a have together", "[calculate] the $op over every digit of $a",
         "[look] at each digit in $a and [return] the $op of them all"),
        ("[find] the $op of all the digits of $a", "[give] back the digit $op of $a"),
        lambda p, n: p.op(int(d) for d in str(n)),
        {"op": choice(("sum|total", "0 ~ +", sum), ("product", "1 ~ *", math.prod))},
        ("digits", "digit_total", "over_digits"),
    ),
    Family(
        "gcd", (FIRST, OTHER), "while $b:\n    $a, $b = $b, $a % $b\nreturn $a",
        ("[compute] the greatest common divisor of $a and $b", "[find] the largest number that divides both $a and $b",
         "[return] the gcd of $a and $b", "[use] the Euclidean algorithm on $a and $b",
         "[determine] the greatest divisor that $a and $b share", "[look] for the highest common factor of $a and $b",
         "[get] the biggest whole number by which both $a and $b can be divided without a rest",
         "[give] back the common divisor of $a and $b that is greatest",
         "[take] $a and $b and [calculate] which common factor of the two is the largest"),
        ("[find] the greatest common divisor of $a and $b", "[compute] the largest number which divides $a and $b"),
        lambda p, a, b: math.gcd(a, b), names=("common_divisor", "greatest_divisor"), inputs=_pair,
        rivals=(lambda p, a, b: min(a, b), lambda p, a, b: math.lcm(a, b)),
    ),
    Family(
        "lcm", (FIRST, OTHER), "result = $a\nwhile result % $b != 0:\n    result += $a\nreturn result",
        ("[compute] the least common multiple of $a and $b", "[find] the smallest number that both $a and $b divide",
         "[return] the lcm of $a and $b", "[give] the smallest common multiple of $a and $b",
         "[determine] the lowest number which is a multiple of both $a and $b",
         "[get] the first number that $a and $b both go into without a rest",
         "[count] up in multiples of $a until $b divides one, and [return] that multiple",
         "[calculate] the least multiple that $a and $b share", "[work] out the lcm for $a and $b",
         "[search] for the common multiple of $a and $b that is smallest"),
        ("[find] the least common multiple of $a and $b",
         "[compute] the smallest multiple that $a and $b have in common"),
        lambda p, a, b: math.lcm(a, b), names=("common_multiple", "least_multiple"), inputs=_pair,
        rivals=(lambda p, a, b: a * b, lambda p, a, b: max(a, b)),
    ),
    Family(
        "is_prime", (POSITIVE,),
        "if $a < 2:\n    return False\nfor i in range(2, $a):\n    if $a % i == 0:\n        return False\nreturn True",
        ("[check] whether $a is prime", "[return] True if $a is a prime number", "[tell] whether $a is a prime",
         "[test] if $a has no divisors but 1 and itself", "[decide] if $a belongs to the primes",
         "[give] back True for $a when it is prime, and False when it is not",
         "[find] out if only 1 and $a itself divide $a",
         "[return] False if $a is below 2 or has a divisor other than 1 and itself, else True",
         "[determine] whether $a is a number with exactly two divisors", "[see] if $a is prime, as True or False"),
        ("[test] whether $a is a prime number", "[return] True when $a is prime"),
        _prime, names=("prime", "check_prime", "prime_test"),
        rivals=(lambda p, n: n % 2 == 1, lambda p, n: n > 1 and all(n % i for i in (2, 3) if i < n)),
        inputs=lambda rng, p: (rng.choice([1, 2, 3, 4, 9, 25, 49, 97, 91, rng.randint(0, 120)]),),
    ),
    Family(
        "fibonacci", (SMALL,), "x, y = $n, $m\nfor _ in range($a):\n    x, y = y, x + y\nreturn x",
        ("[use] a loop to get the Fibonacci number at $a in the sequence that starts $n, $m",
         "[return] the Fibonacci number at $a, starting from $n and $m",
         "[compute] Fibonacci with a loop from $n and $m up to $a",
         "[find] the Fibonacci number at $a when the first two are $n and $m",
         "[give] back the Fibonacci number at $a, counted from 0, with $n and $m as the first two",
         "[build] the Fibonacci sequence that begins with $n and $m and [return] its number at index $a",
         "[walk] along the Fibonacci sequence from $n, $m with a loop and [return] the number at $a",
         "[calculate] which Fibonacci number stands at $a if the sequence opens with $n and $m",
         "[make] each number the sum of the two before it, from $n and $m on, and [return] the one at $a",
         "[get] the number at $a in a Fibonacci sequence whose first two numbers are $n and $m"),
        ("[compute] the Fibonacci number at $a when the sequence starts from $n and $m",
         "[find] the Fibonacci number at $a that starts $n, $m, with a loop"),
        _fib, {"n": numbers(0, 9), "m": numbers(1, 15)}, ("fib", "sequence", "fib_from"),
    ),
    Family(
        "clamp", (WHOLE,), "return max($n, min($a, $m))",
        ("[clamp] $a between $n and $m", "[limit] $a to the range from $n to $m", "[keep] $a within $n and $m",
         "[return] $a, but not less than $n and not more than $m", "[force] $a into the range $n to $m",
         "[return] $a, or $n if it is below $n, or $m if it is above $m",
         "[cut] $a off at $n from below and at $m from above", "[make] $a stay at least $n and at most $m",
         "[bound] $a by $n below and $m above",
         "[give] back $a with $n as its lowest and $m as its highest allowed value"),
        ("[limit] $a to stay between $n and $m", "[keep] $a in the range from $n to $m"),
        lambda p, a: sorted([p.n, a, p.m])[1], {"n": numbers(0, 50), "m": numbers(5, 99)},
        ("limit", "bound", "clip"), where=lambda p: p.n + 3 < p.m,
    ),
    Family(
        "round_to", (POSITIVE,), "return $way$a // $n) * $n",
        ("[round] $a $way to a multiple of $n", "[return] the nearest multiple of $n going $way from $a",
         "[bring] $a $way to the next multiple of $n", "[round] $a $way in steps of $n",
         "[move] $a $way until it is a multiple of $n", "[find] the multiple of $n that you reach by rounding $a $way",
         "[make] $a a multiple of $n by rounding it $way", "[get] $a rounded $way so that $n divides it",
         "[step] $way from $a to a number that $n divides, if it is not one already",
         "[change] $a, rounding $way, into the nearest number that is a multiple of $n"),
        ("[bring] $a $way to the nearest multiple of $n", "[go] $way from $a to the next multiple of $n"),
        _rounded, {"n": numbers(2, 60), "way": choice(("down", "(", "down"), ("up", "-(-", "up"))},
        ("round_steps", "to_multiple", "snap"),
    ),
    Family(
        "convert", (POSITIVE,), "return $a $op $n",
        ("[convert] $a $op, where one $u3 is $n $u2", "[take] $a and [convert] it $op, with $n $u2 in a $u3",
         "[change] $a $op when a $u3 has $n $u2", "[return] $a converted $op, with $n $u2 in one $u3",
         "[express] $a in the other unit, $op, given that one $u3 has $n $u2",
         "[go] $op with $a, knowing that there are $n $u2 in one $u3", "[switch] $a $op at $n $u2 for each $u3",
         "[work] out $a converted $op, since every $u3 is worth $n $u2", "[rescale] $a $op, if $n $u2 make one $u3",
         "[translate] $a $op: one $u3 equals $n $u2"),
        ("[convert] $a $op when one $u3 has $n $u2", "[take] $a and [change] it $op, where a $u3 is $n $u2"),
        lambda p, a: float(Fraction(a, p.n)) if p.op else a * p.n,
        {"u": UNITS, "n": numbers(2, 99), "op": choice(("from $u to $u2", "*", False), ("from $u2 to $u", "/", True))},
        ("to_unit", "convert_units", "change_unit"),
    ),
    Family(
        "collatz_steps", (POSITIVE,),
        "steps = 0\nwhile $a != 1:\n    $a = $a // 2 if $a % 2 == 0 else 3 * $a + 1\n    steps += 1\nreturn steps",
        ("[count] the Collatz steps from $a to 1", "[return] how many Collatz steps $a needs to reach 1",
         "[find] the length of the Collatz path of $a", "[apply] the Collatz rule to $a until 1 and [count] the steps",
         "[tell] how often the Collatz rule must be applied before $a becomes 1",
         "[halve] $a when it is even, else [take] 3 times it plus 1, and [count] the steps until it is 1",
         "[follow] $a down the Collatz sequence and [return] its number of steps to 1",
         "[work] out the step count that brings $a to 1 under the Collatz rule",
         "[measure] how long $a takes to get to 1 by Collatz steps",
         "[start] at $a, [repeat] the Collatz step until you are at 1 and [return] how many it took"),
        ("[return] the number of Collatz steps from $a down to 1",
         "[count] how many steps of the Collatz rule $a needs"),
        _collatz, names=("collatz", "count_steps", "hailstone"),
    ),
    Family(
        "to_base", (POSITIVE,),
        "digits = ''\nwhile $a > 0:\n    digits = str($a % $n) + digits\n    $a //= $n\nreturn digits",
        ("[write] $a in base $n", "[convert] $a to a string in base $n", "[return] the base $n digits of $a",
         "[turn] $a into its base $n form", "[show] $a as text in the number system with base $n",
         "[build] the string that spells $a in base $n", "[express] $a by its base $n digits, joined as a string",
         "[change] $a from base 10 to base $n and [give] back the digits as text",
         "[divide] $a by $n again and again and [collect] the remainders as a string in base $n",
         "[get] the string of digits that $a has when written in base $n"),
        ("[return] $a as a string in base $n", "[convert] $a to base $n digits"),
        _digits_in, {"n": numbers(2, 9)}, ("in_base", "base_digits", "change_base"),
    ),
    Family(
        "in_range", (WHOLE,), "return $n $op $a $op $m",
        ("[check] whether $a lies between $n and $m $op", "[return] True if $a is from $n to $m $op",
         "[tell] whether $a is in the range $n to $m $op", "[test] if $a is between $n and $m $op",
         "[decide] whether $a is inside the range that goes from $n to $m, $op",
         "[see] if $a belongs to the range $n to $m, $op", "[find] out whether $a falls between $n and $m, $op",
         "[answer] with True if $a is found in the interval from $n to $m, $op, else with False",
         "[determine] if the range from $n to $m ($op) contains $a",
         "[return] False if $a is outside of $n to $m ($op), else True"),
        ("[tell] if $a lies in the range from $n to $m $op", "[return] True if $a lies between $n and $m $op"),
        lambda p, a: sorted([p.n, a, p.m])[1] == a and (p.op == "<=" or a not in (p.n, p.m)),
        {"n": numbers(0, 40), "m": numbers(5, 99),
         "op": choice(("inclusive|with both ends", "<=", "<="), ("exclusive|without the ends", "<", "<"))},
        ("between", "is_within", "check_range"), where=lambda p: p.n + 3 < p.m,
    ),
    Family(
        "label", (WHOLE,), "if $a $op $n:\n    return $w\nreturn $v",
        ("[return] $w if $a is $op $n, else $v", "[answer] $w when $a is $op $n and $v otherwise",
         "[give] $w for $a $op $n and $v for all others", "[say] $w if $a is $op $n, otherwise $v",
         "[choose] $w for $a if it is $op $n and $v if it is not",
         "[map] $a to $w when it is $op $n, and to $v in every other case",
         "[return] one of two words: $w if $a is $op $n, $v if not",
         "[test] whether $a is $op $n, then [return] $w for yes and $v for no",
         "[mark] $a with $w where it is $op $n and with $v elsewhere",
         "[call] $a $w if it is $op $n; all other numbers are $v"),
        ("[give] back $w when $a is $op $n, else $v", "[answer] $w if $a is $op $n, and otherwise $v"),
        lambda p, a: [p.v, p.w][p.op(a, p.n)], {
            "op": choice(("greater than|above", ">", lambda x, n: not x <= n),
                         ("at least", ">=", lambda x, n: not x < n),
                         ("less than|below", "<", lambda x, n: not x >= n), ("at most", "<=", lambda x, n: not x > n)),
            "n": numbers(1, 99), "w": words(), "v": words()},
        ("grade", "classify", "name_size"), where=lambda p: p.w != p.v,
    ),
]  # fmt: skip
