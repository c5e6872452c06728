"""Ways to spoil bytes that do not care what the bytes mean; shared by the suites of damaged files."""

from __future__ import annotations

import random

JUNK: tuple[bytes, ...] = (
    b"\n", b"\r", b"\0", b"\t", b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"#", b"-", b"null", b"NaN", b"1e999",
    b"\xff\xfe", b"\xe9", b"\xef\xbb\xbf", b"\\ud83d", b"\x1f\x8b", b"\x1b[2J", b"\xe2\x80\xae", b"\xe2\x80\xa8",
    b"1" * 5000, b"[" * 3000, b'"a":' * 2, b"<s>", b"---\n", b"\x80\x04\x95", b"__import__('os')",
)  # fmt: skip


def flipped(raw: bytes, rng: random.Random) -> bytes:
    """One to three bits are the other way round."""
    spoilt = bytearray(raw or b"\0")
    for _ in range(rng.randint(1, 3)):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def cut(raw: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return raw[: rng.randrange(len(raw) + 1)]


def zeroed(raw: bytes, rng: random.Random) -> bytes:
    """A stretch is zeros, as after a power cut."""
    start = rng.randrange(len(raw) + 1)
    stop = min(len(raw), start + rng.choice((1, 16, 512, len(raw))))
    return raw[:start] + bytes(stop - start) + raw[stop:]


def edited(raw: bytes, rng: random.Random) -> bytes:
    """One to four stretches are left out, added or overwritten."""
    for _ in range(rng.randint(1, 4)):
        at, new = rng.randrange(len(raw) + 1), rng.choice(JUNK)
        keep = at + rng.choice((0, len(new), rng.randint(1, 40)))
        raw = raw[:at] + (b"" if rng.random() < 0.3 else new) + raw[keep:]
    return raw


def moved(raw: bytes, rng: random.Random) -> bytes:
    """Two lines have changed places, or one stands twice or is gone."""
    lines = raw.splitlines(keepends=True) or [b""]
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.randrange(3)
    if how == 0:
        lines[a], lines[b] = lines[b], lines[a]
    elif how == 1:
        lines.insert(b, lines[a])
    else:
        del lines[a]
    return b"".join(lines)


WAYS = (flipped, cut, zeroed, edited, moved)


def spoilt(raw: bytes, rng: random.Random) -> bytes:
    """One of all ways."""
    return rng.choice(WAYS)(raw, rng)
