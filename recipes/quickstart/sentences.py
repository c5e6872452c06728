"""Made-up text: statements of Python, each under a comment that says in English what it does.

    # append 14 to offsets
    offsets.append(14)
    # keep the items of offsets that are greater than 3
    offsets = [item for item in offsets if item > 3]

Names, numbers and words are drawn at random, so the only way to predict a statement is to read the comment and copy
from it: that is what the text is for. A document is a few such statements that share their names, plain or as the body
of a function that is called afterwards.

Not covered: instructions and answers. The text holds no task of the quickstart's rows (`make_base.py` checks it).
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# (English variants, code): {v} the variable, {o} a new name, {n} {m} {k} numbers, {w} {u} words, {c} {a} a character
NUMBER = (
    ("add {n} to {v}|increase {v} by {n}", "{v} = {v} + {n}"),
    ("subtract {n} from {v}|decrease {v} by {n}|take {n} away from {v}", "{v} = {v} - {n}"),
    ("multiply {v} by {n}|make {v} {n} times as large", "{v} = {v} * {n}"),
    ("divide {v} by {n}, rounding down|whole part of {v} divided by {n}", "{v} = {v} // {n}"),
    ("remainder of {v} divided by {n}|what is left when {v} is divided by {n}", "{v} = {v} % {n}"),
    ("raise {v} to the power {n}|{v} to the power of {n}", "{v} = {v} ** {n}"),
    ("use the larger of {v} and {n}|{v} should be at least {n}", "{v} = max({v}, {n})"),
    ("use the smaller of {v} and {n}|{v} must not exceed {n}", "{v} = min({v}, {n})"),
    ("absolute value of {v}|drop the sign of {v}", "{v} = abs({v})"),
    ("when {v} is greater than {n}, set it to {m}", "if {v} > {n}:\n    {v} = {m}"),
    ("if {v} is less than {n}, use {m}, otherwise {n}", "{v} = {m} if {v} < {n} else {n}"),
    ("stop with a ValueError when {v} is below {n}", "if {v} < {n}:\n    raise ValueError('{v}')"),
    ("raise an error with the message {w} if {v} equals {n}", "if {v} == {n}:\n    raise ValueError('{w}')"),
    (
        "while {v} is larger than {n}, halve it|halve {v} until it is at most {n}",
        "while {v} > {n}:\n    {v} = {v} // 2",
    ),
    ("count up from {n} to {v}, adding into {o}", "{o} = 0\nfor i in range({n}, {v}):\n    {o} = {o} + i"),
    ("print {v} with the label {w}", "print('{w}', {v})"),
    ("check that {v} is even|make sure {v} is even", "assert {v} % 2 == 0"),
    ("keep {v} between {n} and {m}", "{v} = max({n}, min({v}, {m}))"),
    ("store {v} under {w} in {o}", "{o} = {{'{w}': {v}}}"),
)
ITEMS = (
    ("append {n} to {v}|put {n} at the end of {v}", "{v}.append({n})"),
    ("insert {n} at the front of {v}|put {n} before the items of {v}", "{v} = [{n}] + {v}"),
    ("keep the items of {v} that are greater than {n}", "{v} = [item for item in {v} if item > {n}]"),
    ("drop the items of {v} that equal {n}|remove every {n} from {v}", "{v} = [item for item in {v} if item != {n}]"),
    ("only items of {v} below {n}|leave out what is not less than {n}", "{v} = [item for item in {v} if item < {n}]"),
    ("add {n} to each item of {v}", "{v} = [item + {n} for item in {v}]"),
    ("multiply every item of {v} by {n}|scale {v} by {n}", "{v} = [item * {n} for item in {v}]"),
    ("sort {v}|put {v} in ascending order", "{v} = sorted({v})"),
    ("sort {v} from large to small|{v} in descending order", "{v} = sorted({v}, reverse=True)"),
    ("reverse {v}|turn {v} around", "{v} = {v}[::-1]"),
    ("the first {k} items of {v}|cut {v} after {k} items", "{v} = {v}[:{k}]"),
    ("skip the first {k} items of {v}|{v} without its first {k}", "{v} = {v}[{k}:]"),
    ("every {k}th item of {v}|one item of {v} in {k}", "{v} = {v}[::{k}]"),
    ("how many items {v} has, as {o}|length of {v} in {o}", "{o} = len({v})"),
    ("add up the items of {v} in {o}|sum of {v} as {o}", "{o} = sum({v})"),
    ("largest item of {v} in {o}|{o} is the maximum of {v}", "{o} = max({v})"),
    ("smallest item of {v} in {o}|{o} is the minimum of {v}", "{o} = min({v})"),
    ("count how often {n} occurs in {v}", "{o} = {v}.count({n})"),
    ("print each item of {v}|show the items of {v} one by one", "for item in {v}:\n    print(item)"),
    ("go through {v} and collect the square of each in {o}", "{o} = []\nfor item in {v}:\n    {o}.append(item * item)"),
    (
        "add each item of {v} that is not {n} to {o}",
        "{o} = 0\nfor item in {v}:\n    if item != {n}:\n        {o} = {o} + item",
    ),
    ("position of {n} in {v}, or -1", "{o} = -1\nfor i, item in enumerate({v}):\n    if item == {n}:\n        {o} = i"),
    ("when {v} is empty, return {n}|give {n} if there is nothing in {v}", "if not {v}:\n    return {n}"),
    ("pair each item of {v} with its position in {o}", "{o} = [(i, item) for i, item in enumerate({v})]"),
)
TEXT = (
    ("{v} in upper case|make {v} upper case", "{v} = {v}.upper()"),
    ("{v} in lower case|make {v} lower case", "{v} = {v}.lower()"),
    ("strip white space from {v}|{v} without spaces at its ends", "{v} = {v}.strip()"),
    ("replace {w} with {u} in {v}|in {v}, {w} becomes {u}", "{v} = {v}.replace('{w}', '{u}')"),
    ("split {v} at each {c}|cut {v} into parts at {c}", "{o} = {v}.split('{c}')"),
    ("put {w} in front of {v}|prefix {v} with {w}", "{v} = '{w}' + {v}"),
    ("add {w} to the end of {v}|let {v} end with {w}", "{v} = {v} + '{w}'"),
    ("repeat {v} {k} times|{v}, {k} times over", "{v} = {v} * {k}"),
    ("first {k} characters of {v}|shorten {v} to {k} characters", "{v} = {v}[:{k}]"),
    ("{v} backwards|turn {v} around", "{v} = {v}[::-1]"),
    ("does {v} start with {w}|{o} tells whether {v} begins with {w}", "{o} = {v}.startswith('{w}')"),
    ("does {v} contain {w}|{o} tells whether {w} is in {v}", "{o} = '{w}' in {v}"),
    ("if {v} is {w}, return {u}|give back {u} for {w}", "if {v} == '{w}':\n    return '{u}'"),
    ("count the letter {a} in {v}|how many {a} are in {v}", "{o} = {v}.count('{a}')"),
    ("drop each {a} from {v}|{v} without the letter {a}", "{v} = {v}.replace('{a}', '')"),
    ("join the words of {v} with {c}", "{v} = '{c}'.join({v}.split())"),
    ("length of {v} in {o}|how long {v} is, as {o}", "{o} = len({v})"),
    ("look at each character of {v} and keep digits", "{v} = ''.join(c for c in {v} if c.isdigit())"),
    ("read {v} as a number, or use {n}", "try:\n    {o} = int({v})\nexcept ValueError:\n    {o} = {n}"),
)
TABLE = (
    ("set {w} to {n} in {v}|store {n} under {w} in {v}", "{v}['{w}'] = {n}"),
    ("get {w} from {v}, or {n}|{o} is the entry {w} of {v}, by default {n}", "{o} = {v}.get('{w}', {n})"),
    ("add {n} to the entry {w} of {v}", "{v}['{w}'] = {v}.get('{w}', 0) + {n}"),
    ("remove {w} from {v}|delete the key {w} of {v}", "del {v}['{w}']"),
    ("keys of {v}, sorted|sorted names in {v}", "{o} = sorted({v})"),
    ("sum of the values of {v} in {o}", "{o} = sum({v}.values())"),
    ("entries of {v} above {n}", "{v} = {{key: value for key, value in {v}.items() if value > {n}}}"),
    ("swap keys and values of {v}", "{v} = {{value: key for key, value in {v}.items()}}"),
    ("print each key of {v} with its value", "for key, value in {v}.items():\n    print(key, value)"),
    ("when {w} is not in {v}, raise a KeyError", "if '{w}' not in {v}:\n    raise KeyError('{w}')"),
)
KINDS = {"number": NUMBER, "items": ITEMS, "text": TEXT, "table": TABLE}
START = {
    "number": ("set {v} to {n}|start with {v} equal to {n}", "{v} = {n}"),
    "items": ("a list {v} of {n}, {m} and {k}|let {v} be {n}, {m}, {k}", "{v} = [{n}, {m}, {k}]"),
    "text": ("let {v} be {w}|set {v} to the word {w}", "{v} = '{w}'"),
    "table": ("an empty dict called {v}|start {v} as an empty dict", "{v} = {{}}"),
}
_SEPARATORS = [",", ";", "-", ":", "/", "|", ".", "_", "+"]


@dataclass
class Writer:
    """Writes documents; the same words and seed give the same ones."""

    words: Sequence[str]
    seed: int = 0
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def documents(self, count: int) -> Iterator[str]:
        """So many documents, in turn plain statements and functions."""
        for number in range(count):
            yield self._function() if number % 2 else self._statements()

    def _number(self) -> int:
        return self._random.choice((self._random.randint(0, 20), self._random.randint(0, 150)))

    def _name(self) -> str:
        return "_".join(self._random.sample(self.words, self._random.choice((1, 1, 2))))

    def _filled(self, idiom: tuple[str, str], names: dict[str, str]) -> tuple[str, str]:
        """English and code of a statement; words of the English are quoted now and then."""
        pick, english = self._random, self._random.choice(idiom[0].split("|"))
        drawn = {"n": self._number(), "m": self._number(), "k": pick.randint(2, 12), "o": self._name()}
        words = {"w": pick.choice(self.words), "u": pick.choice(self.words), "c": pick.choice(_SEPARATORS)}
        words["a"] = pick.choice("abcdefghijklmnopqrstuvwxyz")
        quote = pick.choice(("'{}'", "`{}`", '"{}"'))
        said = {key: quote.format(word) for key, word in words.items()}
        named = {**names, "o": drawn["o"]}
        if pick.random() < 0.5:
            named = {key: f"`{name}`" for key, name in named.items()}
        return english.format(**{**drawn, **said, **named}), idiom[1].format(**{**drawn, **words, **names})

    def _statements(self) -> str:
        kind, name = self._random.choice(list(KINDS)), self._name()
        idioms = [START[kind], *self._random.choices(KINDS[kind], k=self._random.randint(1, 4))]
        parts = [self._filled(idiom, {"v": name}) for idiom in idioms if "return" not in idiom[1]]
        return "\n".join(f"# {english}\n{code}" for english, code in parts)

    def _function(self) -> str:
        """A definition whose docstring tells the body, and a call of it."""
        kind, name, function = self._random.choice(list(KINDS)), self._name(), self._name() + "_" + self._name()
        idioms = self._random.choices(KINDS[kind], k=self._random.choice((1, 2, 2, 3)))
        parts = [self._filled(idiom, {"v": name}) for idiom in idioms]
        story = ", then ".join(english for english, _ in parts)
        body = "\n".join(code for _, code in parts) + f"\nreturn {name}"
        text = f'def {function}({name}):\n    """{story[0].upper()}{story[1:]}."""\n{textwrap.indent(body, "    ")}'
        return f"{text}\n\n{self._filled(START[kind], {'v': name})[1]}\nprint({function}({name}))"
