"""Names, literals and arguments to draw from, and what of them is kept for the `parameter` tasks.

Kept aside: positive numbers n with n % 7 == 6; names with a word of HELD_VERBS or HELD_NOUNS; the `held` values below.

Not covered: options of one family; they stand in its entry.
"""

from __future__ import annotations

import string
from random import Random
from typing import Any

from rows.shapes import Arg, Slot, Value

VERBS = [
    "get", "make", "find", "build", "take", "give", "check", "apply", "read", "show", "pick", "list", "run", "try",
    "use", "put", "set", "move", "turn", "scan", "map", "parse", "load", "solve", "work", "do", "mark", "mix",
    "sort", "form", "send", "fix", "trim", "note", "test", "call", "cast", "draw",
]  # fmt: skip
NOUNS = [
    "text", "list", "value", "item", "name", "word", "number", "part", "data", "line", "row", "box", "path", "key",
    "task", "page", "file", "node", "tree", "code", "step", "time", "point", "case", "unit", "rule", "test", "user",
    "table", "field", "block", "group", "order", "score", "level", "river", "stone", "bird", "lamp", "cloud",
    "garden",
]  # fmt: skip
EXTRA = ("new", "old", "fast", "small", "big", "safe", "main", "my", "simple", "next", "last", "first")
# names for arguments of any kind: only copying the instruction tells which it is
ANY_NAMES = (
    "age", "angle", "answer", "area", "base", "batch", "body", "book", "bread", "call", "card", "cell", "chain",
    "chart", "city", "color", "corner", "course", "cup", "deck", "depth", "door", "draft", "edge", "event", "fact",
    "farm", "figure", "fleet", "flour", "fruit", "gate", "glass", "goal", "guest", "hat", "height", "hill", "horse",
    "hours", "image", "island", "jar", "journey", "kind", "lake", "leaf", "lesson", "letter", "limit", "log",
    "machine", "mail", "mark", "meal", "metal", "mile", "music", "nest", "offer", "order", "paint", "pair", "paper",
    "plan", "plant", "price", "query", "rain", "rate", "reply", "result", "road", "roof", "root", "rope", "salt",
    "sample", "school", "seat", "shape", "ship", "shop", "sign", "size", "song", "soup", "speed", "stage", "state",
    "station", "stock", "story", "street", "temp", "theme", "ticket", "total", "tower", "train", "trip", "unit",
    "version", "view", "visit", "wall", "wave", "week", "wheel", "width", "window", "wire", "wood", "yard",
)  # fmt: skip
HELD_VERBS = ("craft", "weave", "select", "handle", "process", "carve")
HELD_NOUNS = ("lantern", "house", "ladder", "engine", "market", "forest", "signal", "bottle", "planet", "report")

LETTERS_HELD = "schuk"
SEPARATORS, SEPARATORS_HELD = ",;-|/:_~*#&", "+=."
WORDS = [
    "cat", "dog", "sun", "red", "blue", "hello", "world", "apple", "note", "end", "start", "big", "small", "yes",
    "no", "ok", "run", "stop", "left", "right", "open", "shut", "fire", "ice", "north", "day", "night", "one",
    "two", "more", "less", "high", "low", "error", "warn", "info", "test", "item", "key", "name", "arm", "bag",
    "ball", "bell", "bed", "chair", "coin", "corn", "cow", "desk", "drum", "east", "egg", "fan", "fish", "flag",
    "frog", "green", "hand", "hot", "iron", "lion", "loud", "milk", "mouse", "nut", "oak", "pear", "pink", "pot",
    "quiet", "rice", "sand", "shoe", "slow", "snow", "spoon", "star", "tea", "west", "wolf",
]  # fmt: skip
WORDS_HELD = ["tiger", "ocean", "silver", "purple", "dragon", "winter", "yellow", "orbit"]
TALK = [
    "the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "level", "madam", "noon", "kayak",
    "python", "code", "simple", "banana", "apple", "tree", "house", "Alpha", "beta", "Gamma", "river", "moon",
    "stone", "x", "yz", "hello", "world", "seven", "Eleven", "queen", "jazz", "vivid", "rotor", "zebra", "crumb",
    "hacks", "shrug",
]  # fmt: skip


def is_held_number(n: int) -> bool:
    """Whether only `parameter` tasks may have this number as a literal."""
    return n > 0 and n % 7 == 6


def number(n: float) -> Value:
    """A number, said and written alike."""
    return Value(n, repr(n), (repr(n),))


def quoted(text: str) -> Value:
    """A piece of text, said and written in quotes."""
    return Value(text, repr(text), (repr(text),))


def numbers(low: int, high: int) -> Slot:
    """The whole numbers from `low` to `high`, split by the rule."""
    both = [number(n) for n in range(low, high + 1)]
    return Slot(
        tuple(v for v in both if not is_held_number(v.value)), tuple(v for v in both if is_held_number(v.value))
    )


def texts(train: Any, held: Any) -> Slot:
    """Pieces of text, some kept aside."""
    return Slot(tuple(map(quoted, train)), tuple(map(quoted, held)))


def choice(*options: tuple[str, str, Any]) -> Slot:
    """Options, each (ways to say it, separated by `|`; code; value). All of them occur in training."""
    return Slot(tuple(Value(value, code, tuple(words.split("|"))) for words, code, value in options))


def letters() -> Slot:
    """Single lower-case letters."""
    return texts([c for c in string.ascii_lowercase if c not in LETTERS_HELD], LETTERS_HELD)


def separators() -> Slot:
    """Single signs that stand between parts."""
    return texts(SEPARATORS, SEPARATORS_HELD)


def words() -> Slot:
    """Short words."""
    return texts(WORDS, WORDS_HELD)


def _near(rng: Random, season: list[Any]) -> int:
    """A number that is small, or near one of the season's numbers, or a multiple of it."""
    known = [n for n in season if isinstance(n, int) and not isinstance(n, bool)]
    if known and rng.random() < 0.6:
        n = rng.choice(known)
        return rng.choice((n - 1, n, n, n + 1, 2 * n, 3 * n, n + 5))
    return rng.randint(-9, 60) if rng.random() < 0.5 else rng.randint(0, 12)


def some_numbers(low: int, high: int) -> Any:
    """A sampler of lists of `low` to `high` whole numbers."""
    return lambda rng, season: [_near(rng, season) for _ in range(rng.randint(low, high))]


def _half(rng: Random, n: float) -> float:
    """Now and then half below: it tells x < 8 from x <= 7."""
    return n - 0.5 if rng.random() < 0.1 else n


def some_halves(low: int, high: int) -> Any:
    """As `some_numbers`, with some numbers that are not whole."""
    return lambda rng, season: [_half(rng, _near(rng, season)) for _ in range(rng.randint(low, high))]


def some_text(low: int, high: int) -> Any:
    """A sampler of `low` to `high` words in one text, mixed with the season's pieces of text."""

    def sample(rng: Random, season: list[Any]) -> str:
        picked = [rng.choice(TALK) for _ in range(rng.randint(low, high))]
        for piece in (s for s in season if isinstance(s, str)):
            for _ in range(rng.randint(0, 2)):
                at = rng.randrange(len(picked) + 1)
                if at < len(picked) and rng.random() < 0.7:
                    cut = rng.randint(0, len(picked[at]))
                    picked[at] = picked[at][:cut] + piece + picked[at][cut:]
                else:
                    picked.insert(at, piece)
        return " ".join(picked)

    return sample


def some_words(low: int, high: int) -> Any:
    """A sampler of lists of words."""
    return lambda rng, season: [rng.choice(TALK) for _ in range(rng.randint(low, high))]


def some_table(rng: Random, season: list[Any]) -> dict[str, int]:
    """A dictionary from words to whole numbers, with the season's words among its keys."""
    keys = rng.sample(WORDS, rng.randint(1, 5)) + [s for s in season if isinstance(s, str) and rng.random() < 0.6]
    rng.shuffle(keys)
    return {key: _near(rng, season) for key in keys}


def a_number(low: int, high: int) -> Any:
    """A sampler of whole numbers in a range, or near the season's if these lie in it."""

    def sample(rng: Random, season: list[Any]) -> int:
        n = _near(rng, season)
        return n if low <= n <= high and rng.random() < 0.7 else rng.randint(low, high)

    return sample


def a_date(rng: Random, season: list[Any]) -> str:
    """A day as ISO text."""
    return f"{rng.randint(1990, 2040)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


TEXT = Arg(("text", "string", "line", "phrase", "content"), ("sentence", "message"),
           ("a string", "a text", "the string", "a given string"), some_text(1, 4))  # fmt: skip
WORD = Arg(("word", "text", "name", "string"), ("token", "title"), ("a word", "a string", "the word"), some_text(1, 1))
TEXTS = Arg(("words", "names", "lines", "parts", "labels"), ("terms", "titles"),
            ("a list of strings", "a list of words", "the list of words"), some_words(0, 5))  # fmt: skip
NUMBERS = Arg(("numbers", "values", "nums", "data", "scores", "items"), ("amounts", "readings"),
              ("a list of numbers", "a list", "the list", "the given list"), some_halves(0, 7))  # fmt: skip
SOME = Arg(NUMBERS.names, NUMBERS.held, NUMBERS.nouns, some_numbers(3, 8))
ITEMS = Arg(("items", "values", "elements", "data", "things"), ("entries", "pieces"),
            ("a list", "the list", "a given list", "a list of items"), some_numbers(1, 9))  # fmt: skip
MATRIX = Arg(("matrix", "rows", "grid", "table"), ("board", "sheet"), ("a list of lists", "a matrix", "the matrix"),
             lambda rng, season: (lambda w: [[rng.randint(0, 9) for _ in range(w)] for _ in range(rng.randint(1, 4))])
             (rng.randint(1, 4)))  # fmt: skip
WHOLE = Arg(("n", "number", "value", "num"), ("amount", "count"), ("a number", "the number", "a given number"),
            lambda rng, season: _half(rng, a_number(0, 120)(rng, season)))  # fmt: skip
TABLE = Arg(("table", "mapping", "data", "counts", "prices"), ("lookup", "record"),
            ("a dictionary", "a dict", "the dictionary"), some_table)  # fmt: skip
DAY = Arg(("day", "text", "date_text", "start"), ("moment", "stamp"),
          ("an ISO date string", "a date string", "the date"), a_date)  # fmt: skip


def train_name(rng: Random) -> str:
    """A function's name out of the words of training."""
    nouns = NOUNS if rng.random() < 0.5 else ANY_NAMES
    parts = [rng.choice(VERBS), rng.choice(nouns)]
    if rng.random() < 0.3:
        parts.insert(1, rng.choice(EXTRA))
    elif rng.random() < 0.3:
        parts = [parts[1], rng.choice(nouns)]
    return "_".join(dict.fromkeys(parts))


def held_name(rng: Random) -> str:
    """A function's name with at least one word that no name of training has."""
    verb, noun = rng.choice(HELD_VERBS), rng.choice(HELD_NOUNS)
    kind = rng.random()
    if kind < 0.3:
        return f"{verb}_{rng.choice(NOUNS)}"
    if kind < 0.6:
        return f"{rng.choice(VERBS)}_{noun}"
    return f"{verb}_{noun}"
