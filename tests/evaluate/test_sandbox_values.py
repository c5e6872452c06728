"""Values cross to the judge as plain data, whatever they were; hostile bytes cost nothing."""

from __future__ import annotations

import contextlib
import math
import struct
import time
from collections import Counter, OrderedDict, defaultdict
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.evaluate.sandbox.values import DEEPEST, LONGEST, NotPlainError, decode, encode

KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
HASHABLE = st.recursive(KEYS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
VALUES = st.recursive(
    HASHABLE | st.complex_numbers(allow_nan=False) | st.sets(HASHABLE, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(HASHABLE, inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=20,
)


EXACT = [Decimal("1.50"), Decimal("-Infinity"), Fraction(-1, 3)]


def same(left, right):
    """Equal, and of equal types all the way down."""
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, (list, tuple)):
        return all(same(a, b) for a, b in zip(left, right, strict=True))
    return not isinstance(left, dict) or all(same(left[key], right[key]) for key in left)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_a_value_comes_back_as_it_was(value):
    assert same(decode(encode(value)), value)


@pytest.mark.parametrize("value", [-1, 0, 255, 256, -256, 1 << 400, -(1 << 400), "\udc80", 1e-320, True, 1, *EXACT])
def test_edges(value):
    back = decode(encode(value))
    assert (repr(type(back)), back) == (repr(type(value)), value)


def test_the_sign_of_zero_and_what_is_not_a_number():
    assert math.copysign(1, decode(encode(-0.0))) == -1
    assert math.isnan(decode(encode(math.nan)))
    assert decode(encode(-math.inf)) == -math.inf


class Colour(IntEnum):
    RED = 3


class Liar(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(x=1), {"x": 1}),
        (defaultdict(list, x=[1]), {"x": [1]}),
        (Colour.RED, 3),
        (Liar("no"), "no"),
        ({1: 2}.keys(), {1}),
        ({1: 2}.items(), {(1, 2)}),
        (bytearray(b"ab"), b"ab"),
    ],
)
def test_a_subclass_arrives_as_the_data_that_it_carries(value, plain):
    back = decode(encode(value))
    assert same(back, plain)
    assert back != "yes"


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def huge_fraction():
    """As a program can make one: no common divisor was looked for."""
    value = object.__new__(Fraction)
    value._numerator, value._denominator = (1 << 10**6) - 1, (1 << 10**6) - 3
    return value


@pytest.mark.parametrize(
    "value",
    [object(), len, iter([]), {1: object()}, [range(3)], nested(DEEPEST), "x" * LONGEST * 2, {1: []}.items(),
     set(range(5000)), Decimal("sNaN"), {Fraction(1, 2)}, {(1, Decimal("1.5")): 2}, [1 << 8 * 4096],
     Decimal("1." + "1" * 5000), huge_fraction()],
)  # fmt: skip
def test_what_is_not_plain_is_refused(value):
    with pytest.raises(NotPlainError):
        encode(value)


def test_shared_parts_cannot_blow_up():
    value: list[object] = []
    for _ in range(50):
        value = [value, value]
    began = time.monotonic()
    with pytest.raises(NotPlainError):
        encode(value)
    assert time.monotonic() - began < 5


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_refused(data):
    with contextlib.suppress(NotPlainError):
        assert decode(encode(decode(data))) is not None or data == b"N"


def sized(tag, count):
    return tag + struct.pack("<I", count)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"?",
        b"NN",
        sized(b"l", 2**32 - 1),
        sized(b"i", 2**32 - 1) + b"1",
        sized(b"s", 1) + b"\xff",
        sized(b"S", 1) + sized(b"l", 0),
        sized(b"d", 1) + sized(b"l", 0) + b"N",
        sized(b"l", 1) * 100 + b"N",
        b"i" * 3 * LONGEST,
    ],
)
def test_bytes_that_are_no_value(data):
    with pytest.raises(NotPlainError):
        decode(data)


@pytest.mark.parametrize("count", [1900, 20000])
def test_keys_that_all_hash_alike_cost_little(count):
    step = 2**61 - 1
    numbers = b"".join(encode(step * n) for n in range(count))
    began = time.monotonic()
    try:
        assert len(decode(sized(b"S", count) + numbers)) == count
    except NotPlainError:
        assert count > 4000
    assert time.monotonic() - began < 5


def integer(number):
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return sized(b"i", len(data)) + data


def half(number):
    """A Fraction whose hash is that of every other one of these."""
    return b"q" + integer(1 + 2 * number * (2**61 - 1)) + integer(2)


LARGE = (1 << 8 * 250_000) - 1
HARD = {
    "one Fraction of half a megabyte": b"q" + integer(LARGE) + integer(LARGE - 4),
    "60 Fractions of 8 kB each": sized(b"l", 60) + (b"q" + integer(2**32_000 - 1) + integer(2**32_000 - 3)) * 60,
    "Decimals beside one large number": sized(b"S", 21) + integer(LARGE)
    + b"".join(sized(b"D", 30) + b"%030d" % (LARGE % (2**61 - 1) + n * (2**61 - 1)) for n in range(20)),
    "Fractions that all hash alike": sized(b"S", 1900) + b"".join(map(half, range(1900))),
    "pairs of large tuples": sized(b"S", 1000) + (sized(b"t", 250) + b"T" * 250) * 1000,
}  # fmt: skip


@pytest.mark.parametrize("data", HARD.values(), ids=list(HARD))
def test_what_is_hard_to_read_does_not_hold_up_the_judge(data):
    assert len(data) <= 2 * LONGEST
    began = time.process_time()
    with contextlib.suppress(NotPlainError):
        decode(data)
    assert time.process_time() - began < 1
