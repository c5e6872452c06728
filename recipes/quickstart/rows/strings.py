"""Tasks on text."""

from __future__ import annotations

import string
from random import Random
from types import SimpleNamespace

from rows.pools import TALK, TEXT, TEXTS, WORD, choice, letters, numbers, separators, some_text, texts, words
from rows.shapes import Arg, Family

LOWER = Arg(WORD.names, WORD.held, WORD.nouns, lambda rng, season: rng.choice(TALK).lower())
LONG = Arg(TEXT.names, TEXT.held, TEXT.nouns, some_text(1, 7))
GROUPS = choice(
    ("vowels", "'aeiou'", "aeiou"),
    ("digits", "'0123456789'", string.digits),
    ("lower-case vowels and spaces", "'aeiou '", "aeiou "),
    ("commas and dots", "',.'", ",."),
)


def _mixed(rng: Random, p: SimpleNamespace) -> tuple[str]:
    """Text with digits, commas and dots among its words."""
    parts = [rng.choice(TALK) + rng.choice(["", ",", ".", "7", "42", "1,5"]) for _ in range(rng.randint(1, 4))]
    return (" ".join(parts),)


def _distinct_lengths(rng: Random, p: SimpleNamespace) -> tuple[str]:
    by_length = {len(w): w for w in rng.sample(TALK, 12)}
    picked = rng.sample(sorted(by_length.values()), rng.randint(2, min(4, len(by_length))))
    return (" ".join(picked),)


def _palindromes(rng: Random, p: SimpleNamespace) -> tuple[str]:
    word = rng.choice(["level", "Noon", "Kayak", "madam", "Rotor", "abc", "python", "Abca", "x", "Anna", "banana"])
    return (rng.choice([word, word.lower(), word + word[::-1], word + "s"]),)


def _separated(rng: Random, p: SimpleNamespace) -> tuple[str]:
    return (p.sep.join(rng.choice(TALK) for _ in range(rng.randint(4, 6))),)


def _edged(rng: Random, p: SimpleNamespace) -> tuple[str]:
    word = rng.choice(TALK)
    return (rng.choice([p.w + word, word + p.w, word + p.w + word, word, p.w, p.w + word + p.w, p.w[:-1] + word]),)


def _shift(p: SimpleNamespace, a: str) -> str:
    alphabet = string.ascii_lowercase
    return "".join(alphabet[p.way(alphabet.index(c), p.n) % 26] for c in a)


def _pad(p: SimpleNamespace, a: str) -> str:
    missing: str = p.c * max(0, p.n - len(a))
    return missing + a if p.side == "rjust" else a + missing


def _nth_part(p: SimpleNamespace, a: str) -> str:
    parts = [""]
    for c in a:
        if c == p.sep:
            parts.append("")
        else:
            parts[-1] += c
    at: int = p.i
    return parts[at]


def _positions(p: SimpleNamespace, a: str) -> list[int]:
    found: list[int] = []
    at = a.find(p.c)
    while at >= 0:
        found.append(at)
        at = a.find(p.c, at + 1)
    return found


FAMILIES = [
    Family(
        "reverse_text", (TEXT,), "return $a[::-1]",
        ("[reverse] $a", "[return] $a backwards", "[give] back $a in reverse order", "[turn] $a around",
         "[flip] $a so that the last character comes first and the first one last",
         "[return] $a as read from the end to the start", "[write] $a from the last character to the first",
         "[put] the characters of $a in the opposite order", "[build] a copy of $a that runs from right to left",
         "[read] the characters of $a from the back and [return] them"),
        ("[return] the characters of $a in reverse order", "[give] back $a backwards", "[read] $a backwards"),
        lambda p, a: "".join(reversed(a)), names=("reverse_string", "backwards", "flip_text"),
    ),
    Family(
        "count_chars", (TEXT,), "return sum(1 for c in $a if c in $group)",
        ("[count] the $group in $a", "[return] how many $group there are in $a", "[find] the number of $group in $a",
         "[tell] how many of the characters in $a are $group", "[give] the count of $group in $a",
         "[work] out how often $group occur in $a", "[compute] the total number of characters in $a that are $group",
         "[go] through $a and [add] up the $group", "[say] how many characters $a has that are $group",
         "[look] at each character of $a and [count] those which are $group"),
        ("[return] the number of $group that $a has", "[count] how many $group there are in $a"),
        lambda p, a: len([c for c in a if p.group.find(c) >= 0]), {"group": GROUPS},
        ("count_signs", "char_total"), inputs=_mixed,
    ),
    Family(
        "filter_chars", (TEXT,), "return ''.join(c for c in $a if c $keep $group)",
        ("$keep the $group in $a", "[take] $a and $keep all $group", "[go] through $a and $keep the $group",
         "$keep all $group of $a and [return] the result", "$keep the characters of $a that are $group",
         "[scan] $a, $keep the $group and [return] what is left of it", "$keep the $group that $a contains",
         "[look] at each character of $a and $keep the $group",
         "[make] a copy of $a, then $keep the $group in the copy", "[clean] up $a: $keep the $group, nothing else"),
        ("[take] $a and $keep the $group in it", "[go] through $a, $keep all $group and [return] the result"),
        lambda p, a: "".join(filter(lambda c: (c in p.group) == p.keep, a)),
        {"group": GROUPS, "keep": choice(("[keep] only", "in", True), ("[remove]|[drop]", "not in", False))},
        ("clean_text", "pick_chars"), inputs=_mixed,
    ),
    Family(
        "is_palindrome", (WORD,), "$a = $a.lower()\nreturn $a == $a[::-1]",
        ("[check] whether $a is a palindrome, ignoring case", "[return] True if $a is a palindrome in any case",
         "[tell] whether $a reads the same in both directions, ignoring case",
         "[test] if $a is the same backwards, ignoring case",
         "[decide] whether $a is the same from both ends, with upper and lower case treated alike",
         "[return] True when $a equals its own reverse, where case does not matter",
         "[say] if $a is a palindrome, without regard to case",
         "[determine] whether $a, in lower case, equals its reverse",
         "[compare] $a with its reversed form, ignoring case, and [return] True if they match",
         "[see] whether $a stays the same when it is read from the end, whatever the case"),
        ("[check] if $a reads the same backwards, ignoring case", "[tell] if $a is a palindrome, ignoring case"),
        lambda p, a: all(x.lower() == y.lower() for x, y in zip(a, reversed(a), strict=True)),
        names=("palindrome", "same_backwards", "check_palindrome"), inputs=_palindromes,
        rivals=(lambda p, a: a == a[::-1], lambda p, a: a[:1].lower() == a[-1:].lower()),
    ),
    Family(
        "shift_letters", (LOWER,),
        "result = ''\nfor c in $a:\n    result += chr((ord(c) - 97 $way $n) % 26 + 97)\nreturn result",
        ("[shift] each letter of $a $way by $n", "[move] every letter of $a $n places $way in the alphabet",
         "[encode] $a with a Caesar shift of $n letters $way", "[apply] a Caesar cipher to $a, $n steps $way",
         "[rotate] the letters of $a by $n places $way, with wrap around",
         "[take] each letter of $a and [replace] it by the one $n places $way in the alphabet",
         "[return] $a with all letters moved $way by $n", "[push] the letters in $a $way by $n steps in the alphabet",
         "[encrypt] $a so that each letter goes $n positions $way around the alphabet",
         "[take] the letter $n steps $way in the alphabet for every letter of $a"),
        ("[take] $a and [move] each of the letters $n places $way",
         "[apply] a shift of $n places $way to each letter of $a"),
        _shift, {"n": numbers(1, 25), "way": choice(("forward", "+", lambda x, n: x + n),
                                                    ("back", "-", lambda x, n: x - n))},
        ("caesar", "encode_text", "rotate_letters"),
    ),
    Family(
        "replace_char", (TEXT,), "return $a.replace($c, $d)",
        ("[replace] every $c with $d in $a", "[change] each $c in $a to $d", "[return] $a with $d instead of $c",
         "[swap] all $c in $a for $d", "[put] $d wherever $a has $c", "[turn] all $c of $a into $d",
         "[return] a copy of $a in which each $c becomes $d", "[substitute] $d for every $c in $a",
         "[rewrite] $a so that each $c is replaced by $d",
         "[write] $d at each place where $a has $c, and [leave] the rest as it is"),
        ("[change] every $c to $d in $a", "[return] $a with $d in place of each $c", "[replace] all $c in $a by $d"),
        lambda p, a: "".join(p.d if c == p.c else c for c in a), {"c": letters(), "d": letters()},
        ("replace_letter", "swap_char", "change_letter"), where=lambda p: p.c != p.d,
    ),
    Family(
        "repeat_joined", (WORD,), "return $sep.join([$a] * $n)",
        ("[repeat] $a $n times with $sep between", "[write] $a $n times, separated by $sep",
         "[return] $n copies of $a joined by $sep", "[join] $n copies of $a with $sep",
         "[build] a text in which $a stands $n times, with $sep in between",
         "[glue] $n copies of $a together with $sep", "[put] $n copies of $a in a row and [place] $sep between them",
         "[return] a text made of $a repeated $n times, with $sep as separator",
         "[say] $a $n times, where $sep stands between the copies", "[make] a chain of $n times $a, linked by $sep"),
        ("[return] $a $n times with $sep between the copies", "[repeat] $a $n times, joined by $sep"),
        lambda p, a: (a + p.sep) * (p.n - 1) + a, {"n": numbers(2, 9), "sep": separators()},
        ("repeat_text", "copies", "repeat_word"),
    ),
    Family(
        "truncate_text", (LONG,), "if len($a) <= $n:\n    return $a\nreturn $a[:$n] + $w",
        ("[cut] $a to $n characters and [add] $w if it was longer",
         "[truncate] $a after $n characters with $w at the end",
         "[shorten] $a to $n characters plus $w when it is too long",
         "[limit] $a to $n characters and [mark] a cut with $w",
         "[return] the first $n characters of $a, followed by $w if some were cut off",
         "[keep] at most $n characters of $a and [append] $w when there were more",
         "[clip] $a at $n characters and [put] $w after the cut, if any",
         "[take] the first $n characters of $a and [add] $w only if there are more",
         "[leave] $a as it is if it has at most $n characters, else [cut] it there and [append] $w",
         "[trim] $a to its first $n characters, with $w as a mark where text is lost"),
        ("[shorten] $a to $n characters and [add] $w if it was too long",
         "[cut] $a after $n characters with $w at the end when it is longer"),
        lambda p, a: a if not a[p.n:] else "".join(list(a)[: p.n]) + p.w,
        {"n": numbers(3, 25), "w": texts(["...", "..", "~", "--", " more", ">>", "!"], ["(cut)", "_", "<>"])},
        ("truncate", "shorten", "cut_text", "limit_text"),
    ),
    Family(
        "pad_text", (WORD,), "return $a.$side($n, $c)",
        ("[pad] $a $side to width $n with $c", "[fill] $a $side with $c up to $n characters",
         "[make] $a $n characters wide by adding $c $side", "[add] $c $side until $a has $n characters",
         "[put] enough $c $side of $a to make it $n characters long",
         "[add] as many $c $side of $a as it takes to reach length $n", "[use] $c $side to fill $a up to length $n",
         "[return] $a with $c added $side, so that it is at least $n long",
         "[write] $a in a field of width $n, with $c $side in the free space",
         "[bring] $a to a width of $n characters by putting $c $side"),
        ("[fill] $a to width $n with $c $side", "[pad] $a with $c $side until it is $n wide"),
        _pad, {"n": numbers(5, 25), "c": texts("0*-.x_ #", "+=z"),
               "side": choice(("on the left", "rjust", "rjust"), ("on the right", "ljust", "ljust"))},
        ("pad", "fill_text", "pad_word"),
    ),
    Family(
        "title_words", (TEXT,), "return ' '.join(w.capitalize() for w in $a.split())",
        ("[capitalize] every word of $a", "[write] each word in $a with a capital first letter",
         "[return] $a with all words capitalized", "[make] the first letter of every word in $a upper case",
         "[convert] $a to title case", "[turn] the first letter of each word in $a into a capital",
         "[change] $a so that all words begin with an upper case letter",
         "[split] $a into words, [capitalize] each and [join] them with spaces",
         "[give] every word in $a a capital letter at its start",
         "[return] $a with each word starting in upper case and going on in lower case"),
        ("[return] $a with a capital first letter in each word", "[capitalize] all the words in $a"),
        lambda p, a: " ".join(w[0].upper() + w[1:].lower() for w in a.split()),
        names=("capitalize_words", "title_case", "big_words"),
        rivals=(lambda p, a: a.capitalize(), lambda p, a: a.upper()),
    ),
    Family(
        "join_words", (TEXTS,), "return $sep.join($a)",
        ("[join] $a with $sep", "[put] $sep between the parts of $a", "[return] $a as one string separated by $sep",
         "[combine] $a into a single string with $sep between",
         "[build] one string from $a with $sep between neighbours", "[glue] the items of $a together with $sep",
         "[write] the items of $a one after the other with $sep in between",
         "[make] one line out of $a, using $sep as separator", "[return] a single text, the items of $a joined by $sep",
         "[merge] $a into one string, where $sep stands between two items"),
        ("[combine] $a into one string separated by $sep", "[return] $a joined with $sep in between"),
        lambda p, a: "".join(p.sep + w for w in a)[len(p.sep):],
        {"sep": texts([",", ";", "-", "|", "/", ", ", " - ", "; ", " | ", "_", ":"], ["+", "=", " + ", ".", " = "])},
        ("join_parts", "join_list", "combine"),
    ),
    Family(
        "split_take", (TEXT,), "return $a.split($sep)[$i]",
        ("[split] $a at $sep and [return] the $i part", "[return] the $i field of $a, separated by $sep",
         "[take] the $i piece of $a between $sep signs", "[cut] $a at every $sep and [give] back the $i part",
         "[divide] $a at each $sep and [pick] the $i piece", "[get] the $i part of $a when $sep is the separator",
         "[read] $a as fields separated by $sep and [return] the $i one",
         "[do] a split of $a at $sep, and after that [keep] only the $i part",
         "[find] what stands in the $i field of $a, where $sep separates the fields",
         "[use] $sep to split $a, and [give] the $i of the parts"),
        ("[return] the $i part of $a after a split at $sep", "[split] $a at every $sep and [take] the $i field"),
        _nth_part, {"sep": separators(), "i": choice(("first", "0", 0), ("second", "1", 1), ("third", "2", 2),
                                                     ("last", "-1", -1), ("second to last", "-2", -2))},
        ("take_part", "get_field", "pick_part"), inputs=_separated,
    ),
    Family(
        "has_edge", (TEXT,), "return $a.$edge($w)",
        ("[check] whether $a $edge $w", "[return] True if $a $edge $w", "[tell] whether $a $edge the word $w",
         "[test] if $a $edge $w", "[decide] for $a if it $edge $w or not", "[return] True when $a $edge $w, else False",
         "[say] whether it is true that $a $edge $w", "[answer] True if $a $edge the text $w and False if not",
         "[find] out if the word which $a $edge is $w", "[look] what $a $edge and [return] True if it is $w"),
        ("[tell] if $a $edge $w", "[return] whether the word $w is what $a $edge"),
        lambda p, a: (a[: len(p.w)] if p.edge == "startswith" else a[-len(p.w):]) == p.w,
        {"w": words(), "edge": choice(("starts with|begins with", "startswith", "startswith"),
                                      ("ends with", "endswith", "endswith"))},
        ("check_edge", "matches", "has_word"), inputs=_edged,
    ),
    Family(
        "longest_word", (TEXT,), "return $best($a.split(), key=len)",
        ("[find] the $best word in $a", "[return] the $best word of $a", "[give] back the word in $a that is $best",
         "[split] $a into words and [return] the $best one", "[pick] the $best word out of $a",
         "[tell] which word in $a is the $best", "[search] $a for its $best word",
         "[look] through the words of $a for the $best one",
         "[compare] the words of $a by length and [return] the $best",
         "[choose] from all words that $a has the $best one"),
        ("[return] the word of $a that is $best", "[split] $a into words and [find] the $best"),
        lambda p, a: p.best(a.split()),
        {"best": choice(("longest", "max", lambda w: sorted(w, key=len)[-1]),
                        ("shortest", "min", lambda w: sorted(w, key=len)[0]))},
        ("find_word", "extreme_word", "word_by_length"), inputs=_distinct_lengths,
    ),
    Family(
        "char_positions", (TEXT,), "return [i for i, c in enumerate($a) if c == $c]",
        ("[list] the positions of $c in $a", "[return] every index where $a has $c",
         "[find] all indexes of the letter $c in $a", "[tell] at which positions of $a the letter $c is",
         "[collect] all indexes at which $a has the letter $c", "[return] a list of the places where $c stands in $a",
         "[say] where in $a the letter $c occurs, as a list of positions",
         "[go] through $a and [note] the index of each $c", "[look] for $c in $a and [return] all positions as a list",
         "[give] the index of every $c that $a contains"),
        ("[find] the positions in $a where the letter is $c", "[return] all indexes of $c in $a"),
        _positions, {"c": letters()}, ("find_all", "positions", "letter_indexes"),
    ),
]  # fmt: skip
