"""Plain Python values as bytes: what a test's expression was worth, on its way from the program to its judge.

    tag  payload                                    tag  payload
    N T F  None, True, False                        s b  length, UTF-8 text or bytes
    i    length, two's complement                   l t  count, items: list, tuple
    f    8 bytes                                    S Z  count, items: set, frozenset
    c    16 bytes                                   d    count, keys and values in turn
    D    length, text: Decimal                      q    two i: Fraction

Lengths and counts are 4 bytes, little endian. What is encoded is the data itself, taken out with the methods of the
plain types: a subclass (a Counter, a named tuple, a str whose `__eq__` always agrees) arrives as the plain value that
it carries, a bytearray as bytes, so no method of the program takes part in a comparison. Decoding builds nothing but
these types, and whoever sends may be hostile, down to keys that all hash alike. The judge of one program is the judge
of its neighbours, so nothing may cost it long: depth, bytes, the length of a number and all that is hashed are bounded,
and a Fraction or a Decimal, whose comparison is slow, is no member of a set and no key.

Not covered: any other type. It is not encodable, and the judge is told so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

LONGEST = 256 * 1024
DEEPEST = 64
_LONGEST_NUMBER = 4096
"""Bytes. Twice as long as any decimal literal that Python reads; a common divisor costs the square of it."""
_MOST_HASHED = 4000
_SLOW = (b"D", b"q")
_SIZE = struct.Struct("<I")
_FLOAT = struct.Struct("<d")


_LONG = f"a number in it is longer than {_LONGEST_NUMBER} bytes"


class NotPlainError(ValueError):
    """A value that is not made of plain types, too deep or too large; or bytes that are no value."""


def encode(value: object) -> bytes:
    """The bytes of a value.

    Raises:
        NotPlainError: It is not made of plain types only, nested deeper than `DEEPEST`, longer than `LONGEST` bytes, or
            nothing that `decode` takes.
    """
    out = bytearray()
    _encode(value, out, DEEPEST)
    data = bytes(out)
    decode(data)
    return data


def _sized(tag: bytes, data: bytes, out: bytearray) -> None:
    if len(out) + len(data) > LONGEST:
        raise NotPlainError(f"the value is longer than {LONGEST} bytes")
    out += tag + _SIZE.pack(len(data)) + data


def _int(value: Any, out: bytearray, depth: int) -> None:
    number = int.__int__(value)
    bits = int.bit_length(number)
    if bits >= 8 * _LONGEST_NUMBER:
        raise NotPlainError(_LONG)
    _sized(b"i", int.to_bytes(number, bits // 8 + 1, "little", signed=True), out)


def _float(value: Any, out: bytearray, depth: int) -> None:
    out += b"f" + _FLOAT.pack(float.__float__(value))


def _complex(value: Any, out: bytearray, depth: int) -> None:
    number = complex.__pos__(value)
    out += b"c" + _FLOAT.pack(number.real) + _FLOAT.pack(number.imag)


def _str(value: Any, out: bytearray, depth: int) -> None:
    _sized(b"s", str.encode(value, "utf-8", "surrogatepass"), out)


def _bytes(value: Any, out: bytearray, depth: int) -> None:
    _sized(b"b", bytes.__add__(value, b""), out)


def _bytearray(value: Any, out: bytearray, depth: int) -> None:
    _sized(b"b", bytes(memoryview(value)), out)


def _decimal(value: Any, out: bytearray, depth: int) -> None:
    if Decimal.is_snan(value):
        raise NotPlainError("a signaling NaN is equal to nothing, itself included")
    _sized(b"D", str.encode(Decimal.__str__(value)), out)


def _fraction(value: Any, out: bytearray, depth: int) -> None:
    out += b"q"
    _int(value.numerator, out, depth)
    _int(value.denominator, out, depth)


def _items(tag: bytes, items: Iterable[object], count: int, out: bytearray, depth: int) -> None:
    out += tag + _SIZE.pack(count)
    for item in items:
        _encode(item, out, depth)


def _dict(value: Any, out: bytearray, depth: int) -> None:
    pairs = list(dict.items(value))
    _items(b"d", (part for pair in pairs for part in pair), len(pairs), out, depth)


_PLAIN: dict[type, Callable[[Any, bytearray, int], None]] = {
    int: _int,
    float: _float,
    complex: _complex,
    str: _str,
    bytes: _bytes,
    bytearray: _bytearray,
    Decimal: _decimal,
    Fraction: _fraction,
    list: lambda value, out, depth: _items(b"l", list.__iter__(value), list.__len__(value), out, depth),
    tuple: lambda value, out, depth: _items(b"t", tuple.__iter__(value), tuple.__len__(value), out, depth),
    set: lambda value, out, depth: _items(b"S", set.__iter__(value), set.__len__(value), out, depth),
    frozenset: lambda value, out, depth: _items(b"Z", frozenset.__iter__(value), frozenset.__len__(value), out, depth),
    dict: _dict,
}
_CONSTANTS = ((None, b"N"), (True, b"T"), (False, b"F"))
_VIEWS: tuple[type, ...] = type({}.keys()), type({}.items())


def _encode(value: object, out: bytearray, depth: int) -> None:
    if len(out) > LONGEST:
        raise NotPlainError(f"the value is longer than {LONGEST} bytes")
    if depth == 0:
        raise NotPlainError(f"the value is nested deeper than {DEEPEST}")
    for constant, tag in _CONSTANTS:
        if value is constant:
            out += tag
            return
    kind = type(value)
    if kind in _VIEWS:
        try:
            value, kind = set(value), set  # type: ignore[call-overload]
        except TypeError as error:
            raise NotPlainError("a view of a dict with values that cannot be in a set") from error
    for plain, write in _PLAIN.items():
        if kind is plain or issubclass(kind, plain):
            write(value, out, depth - 1)
            return
    raise NotPlainError(f"{type.__dict__['__name__'].__get__(kind)} is not a plain value")


def decode(data: bytes) -> object:
    """The value of its bytes, whoever wrote them.

    Raises:
        NotPlainError: These bytes are no value, or one past the bounds.
    """
    if len(data) > 2 * LONGEST:
        raise NotPlainError(f"the value is longer than {LONGEST} bytes")
    reader = _Reader(data)
    try:
        value = reader.value(DEEPEST)
    except (IndexError, struct.error, UnicodeDecodeError, TypeError, ArithmeticError) as error:
        raise NotPlainError("these bytes are no value") from error
    if reader.at != len(data):
        raise NotPlainError("bytes are left after the value")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.hashed = 0
        self.keys = 0  # how many sets and keys it is in

    def take(self, length: int) -> bytes:
        part = self.data[self.at : self.at + length]
        if len(part) != length:
            raise NotPlainError("the value is cut off")
        self.at += length
        return part

    def number(self) -> bytes:
        size = self.size()
        if size > _LONGEST_NUMBER:
            raise NotPlainError(_LONG)
        return self.take(size)

    def size(self) -> int:
        return int(_SIZE.unpack(self.take(4))[0])

    def items(self, depth: int) -> list[object]:
        return [self.value(depth) for _ in range(self.size())]

    def key(self, depth: int) -> object:
        """A member of a set or a key of a dict."""
        self.keys += 1
        value = self.value(depth)
        self.keys -= 1
        return value

    def members(self, depth: int) -> list[object]:
        return [self.key(depth) for _ in range(self.size())]

    def mapping(self, depth: int) -> dict[object, object]:
        return {self.key(depth): self.value(depth) for _ in range(self.size())}

    def count_hashed(self, tag: bytes) -> None:
        """Bound what is in sets and keys, parts of tuples too: those that collide cost the square of it."""
        self.hashed += 1
        if self.hashed > _MOST_HASHED:
            raise NotPlainError(f"the value has more than {_MOST_HASHED} entries in sets and dicts")
        if tag in _SLOW:
            raise NotPlainError("a Fraction or a Decimal in a set, or as a key")

    def fraction(self) -> Fraction:
        numerator, denominator = self.value(1), self.value(1)
        if not (isinstance(numerator, int) and isinstance(denominator, int)):
            raise NotPlainError("these bytes are no value")
        return Fraction(numerator, denominator)

    def value(self, depth: int) -> object:
        if depth == 0:
            raise NotPlainError(f"the value is nested deeper than {DEEPEST}")
        tag = self.take(1)
        if self.keys:
            self.count_hashed(tag)
        read = _READ.get(tag)
        if read is None:
            raise NotPlainError("these bytes are no value")
        return read(self, depth - 1)


_READ: dict[bytes, Callable[[_Reader, int], object]] = {
    b"N": lambda reader, depth: None,
    b"T": lambda reader, depth: True,
    b"F": lambda reader, depth: False,
    b"i": lambda reader, depth: int.from_bytes(reader.number(), "little", signed=True),
    b"f": lambda reader, depth: _FLOAT.unpack(reader.take(8))[0],
    b"c": lambda reader, depth: complex(*struct.unpack("<dd", reader.take(16))),
    b"s": lambda reader, depth: str(reader.take(reader.size()), "utf-8", "surrogatepass"),
    b"b": lambda reader, depth: reader.take(reader.size()),
    b"D": lambda reader, depth: Decimal(str(reader.number(), "ascii")),
    b"q": lambda reader, depth: reader.fraction(),
    b"l": lambda reader, depth: reader.items(depth),
    b"t": lambda reader, depth: tuple(reader.items(depth)),
    b"S": lambda reader, depth: set(reader.members(depth)),
    b"Z": lambda reader, depth: frozenset(reader.members(depth)),
    b"d": lambda reader, depth: reader.mapping(depth),
}
