"""Damaged configs: whatever the text or the command line says, a plan or a `ConfigError`, never anything else.

Three trials of four are typos: every word that is one slip away from a key, a key of a dataset or a section (a letter
left out, added or changed, two neighbours swapped), each in a whole YAML. The error must name the word and its line;
how often it suggests the key that was meant is counted. The fourth trial is damage of another kind (`DAMAGES`).

Not covered: whether rules about combinations of keys are right (`tests/config/test_config_rules.py`).
"""

from __future__ import annotations

import functools
import json
import random
import re
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.config import aliases, meanings
from luthier.config.keys import SECTIONS, by_name, keys, source_keys
from luthier.config.load import Loaded, from_dict, load
from luthier.config.plan import DataFacts, MachineFacts, ModelFacts, Plan
from luthier.config.resolve import resolve
from luthier.config.schema import Config
from luthier.errors import ConfigError
from tests.torture import damage
from tests.torture.config_texts import FLAT, ODD, SHIPPED, TRAPS, plain_value
from tests.torture.outcome import COUNTS, bench, dice

NAME = "configs"
DEFAULT = 96_000
FAST = 1500
LONGEST_MS = 5000
"""Of computing: a config of the largest size that is read at all takes about two seconds."""

WORDS = frozenset(
    {*by_name(), *SECTIONS, *aliases.SECTION_NAMES, *aliases.RENAMED, *aliases.DECIDED, *aliases.UNSUPPORTED}
    | {*meanings.KEYS}
)
"""All words that may stand where a key stands."""
SOURCE_WORDS = frozenset({*source_keys(), *aliases.SOURCE_NAMES, *aliases.SOURCE_DECIDED})

Text = tuple[bytes, list[str]]
"""A config file and overrides."""


def trial(number: int, seed: int) -> str:
    """One typo, or one damage of another kind; and never for long."""
    rng = dice(NAME, seed, number)
    started = time.process_time()
    if number % 4:
        wrong = typo_trial(*typos()[(number - number // 4 - 1) % len(typos())], rng)
    else:
        wrong = rng.choice(DAMAGES)(rng)
    milliseconds = int(1000 * (time.process_time() - started))
    COUNTS["most_milliseconds"] = milliseconds
    return wrong or (f"took {milliseconds} ms" if milliseconds > LONGEST_MS else "")


# Typos ---------------------------------------------------------------------------------------------------------------


@functools.cache
def typos() -> list[tuple[str, str, str]]:
    """(section, key, typo) of all slips of all keys, in one fixed disorder; keys of a dataset have the section
    `source`, sections have none."""
    meant = [(key.section, key.name) for key in keys().values()]
    meant += [("source", name) for name in source_keys()] + [("", name) for name in SECTIONS]
    found = [(section, name, typo) for section, name in meant for typo in sorted(slips(name))]
    random.Random(0).shuffle(found)
    return found


def slips(word: str) -> set[str]:
    """Every word that is one slip away; letters, `_` and `-` (and digits in place of digits) are what slips in."""
    found = {word[:i] + word[i + 1 :] for i in range(len(word))}
    found |= {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    for i in range(len(word) + 1):
        letters = string.digits if word[i : i + 1].isdigit() else string.ascii_lowercase + "_-"
        found |= {word[:i] + letter + word[i:] for letter in letters}
        found |= {word[:i] + letter + word[i + 1 :] for letter in (*letters, word[i : i + 1].upper())}
    return found - {word, "", "-"}


def typo_trial(section: str, name: str, typo: str, rng: random.Random) -> str:
    """The word in a whole YAML: named with its line, or known as another word."""
    text, line = yaml_with(section, name, typo, rng)
    path, caught = attempt((text.encode(), []))
    if isinstance(caught, str):
        return caught
    if typo in (SOURCE_WORDS if section == "source" else WORDS):
        COUNTS["typos_that_are_another_key"] += 1
        return ""
    if not isinstance(caught, ConfigError):
        return f"{typo!r} was accepted for {name}"
    (problem, *others) = caught.problems
    named = problem.code == "E-CFG-008" and f'"{typo}"' in problem.found and problem.where == f"{path}:{line}"
    if others or not named:
        return f"{typo!r} for {name} in line {line}: {caught}"
    COUNTS["typos"] += 1
    COUNTS["typos_with_the_right_suggestion"] += re.findall(r'did you mean "([^"]+)"', problem.fix) == [name]
    return ""


def yaml_with(section: str, name: str, typo: str, rng: random.Random) -> tuple[str, int]:
    """A config in which `typo` stands for `name`, with neighbours; and the line of it."""
    lines = ["# fine-tuning", "model:", "  revision: main"]
    if section == "":
        inner = next(key for key in keys().values() if key.section == name)
        return "\n".join([*(lines if name != "model" else lines[:1]), f"{typo}:", f"  {entry(inner)}", ""]), 2 + 2 * (
            name != "model"
        )
    if section == "source":
        around = ["path: train.jsonl"] * (name != "path") + [f"{typo}: {json.dumps(source_keys()[name].typical)}"]
        block = ["data:", "  datasets:", *(f"    {'- ' if i == 0 else '  '}{item}" for i, item in enumerate(around))]
    else:
        others = [key for key in keys().values() if key.section == section and key.name not in (name, typo)]
        items = [entry(key) for key in rng.sample(others, min(4, len(others)))]
        items.insert(rng.randint(0, len(items)), f"{typo}: {json.dumps(keys()[f'{section}.{name}'].typical)}")
        block = [f"{section}:", *(f"  {item}" for item in items)]
        lines = lines if section != "model" else lines[:1]
    lines += block
    return "\n".join([*lines, "  # the end", ""]), next(i for i, x in enumerate(lines, 1) if f"{typo}:" in x.split())


def entry(key: Any) -> str:
    """The line of a key with a value that it takes."""
    return f"{key.name}: {json.dumps(key.typical)}"


# Damage of other kinds -----------------------------------------------------------------------------------------------


def spoilt_file(rng: random.Random) -> str:
    """Cut, flipped, edited: the bytes of a config of ours or of another tool."""
    return said((damage.spoilt(rng.choice((*shipped(), *FLAT)), rng), []))


def trap(rng: random.Random) -> str:
    """Something that YAML makes another thing of, somewhere in a config."""
    lines = rng.choice(shipped()).split(b"\n")
    at = rng.randrange(len(lines) + 1)
    return said((b"\n".join([*lines[:at], rng.choice(TRAPS), *lines[at:]]), []))


def key_twice(rng: random.Random) -> str:
    """The same key in two lines of a section: refused at the second one."""
    key = rng.choice(list(keys().values()))
    filler = [f"  # {word}" for word in rng.choices(("one", "two", "three"), k=rng.randint(0, 5))]
    lines = [f"{key.section}:", f"  {entry(key)}", *filler, f"  {entry(key)}", "# end"]
    path, caught = attempt(("\n".join(lines).encode(), []))
    expected = [("E-CFG-006", f"{path}:{3 + len(filler)}")]
    return differs(caught, expected, f"{key.dotted} twice")


def number_out_of_place(rng: random.Random) -> str:
    """A number, a word or a switch for a key: taken where the schema takes it, else refused at its line."""
    key = rng.choice([key for key in keys().values() if key.dotted not in meanings.VALUES])
    value = rng.choice((0, 1, -1, 3, 2.5, -0.5, 1e-4, 1e300, -1e-12, 10**25, True, False, None, "abc", [], {}, [[]]))
    if key.name in ("datasets", "target_modules") or isinstance(value, str):
        return said((f"{key.section}:\n  {key.name}: {json.dumps(value)}".encode(), []))
    path, caught = attempt((f"{key.section}:\n\n  {key.name}: {json.dumps(value)}\n".encode(), []))
    if fits(key, value):
        ruled = isinstance(caught, ConfigError) and caught.problems[0].code >= "E-CFG-020"
        return "" if isinstance(caught, Loaded) or ruled else f"{key.dotted}: {value} was refused: {caught}"
    if isinstance(caught, ConfigError) and {problem.code for problem in caught.problems} <= {"E-CFG-010", "E-CFG-011"}:
        wrong = [p.where for p in caught.problems if p.where != f"{path}:3" or key.name not in p.found]
        return f"{key.dotted}: {value} is named at {wrong}" if wrong else ""
    return f"{key.dotted}: {value}: {caught}"


def fits(key: Any, value: Any) -> bool:
    """What the schema alone says of a value."""
    try:
        Config.model_validate({key.section: {key.name: value}})
    except ValueError:
        return False
    return True


def another_section(rng: random.Random) -> str:
    """A key below another section than its own: moved, and said so with its line."""
    key = rng.choice([key for key in keys().values() if key.name not in ("datasets", "name", "revision")])
    section = rng.choice([name for name in SECTIONS if name != key.section])
    path, caught = attempt((f"{section}:\n  {entry(key)}\n".encode(), []))
    if not isinstance(caught, Loaded):
        return f"{key.name} below {section}: {caught}"
    moved = caught.sources[key.dotted] == f"{path}:2"
    noted = any(f"{path}:2" in note and key.dotted in note for note in caught.notes)
    return "" if moved and noted else f"{key.name} below {section}: {caught.sources[key.dotted]}, {caught.notes}"


def words_and_odd_values(rng: random.Random) -> str:
    """Lines that look like a config, or do not."""
    heads = ("", "", "  ", "  ", "    ", "- ", "\t")
    parts = [
        rng.choice(heads) + rng.choice(word_list()) + rng.choice((": ", ": ", ":", " ", ":\n  ")) + rng.choice(ODD)
        for _ in range(rng.randint(1, 8))
    ]
    return said(("\n".join(parts).encode("utf-8", "surrogatepass"), overrides(rng)))


def any_bytes(rng: random.Random) -> str:
    """Noise."""
    if rng.random() < 0.5:
        return said((rng.randbytes(rng.randint(0, 300)), []))
    text = "".join(chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xD800), 10))) for _ in range(200))
    return said((text.encode(), []))


def any_mapping(rng: random.Random) -> str:
    """A config from Python, with values that no YAML would hold."""
    mapping: dict[str, Any] = {
        rng.choice((*SECTIONS, rng.choice(word_list()))): {
            rng.choice(word_list()): plain_value(rng) for _ in range(rng.randint(0, 4))
        }
        for _ in range(rng.randint(0, 4))
    }
    mapping |= {rng.choice(word_list()): plain_value(rng) for _ in range(rng.randint(0, 2))}
    return checked(lambda: from_dict(mapping), None, rng)[1]


def valid_together(rng: random.Random) -> str:
    """Keys that are each valid, in any combination, on any machine: a plan, or the rule that forbids it."""
    lines: dict[str, list[str]] = {}
    for key in rng.sample(list(keys().values()), rng.randint(1, 25)):
        values = [value for value in (*key.choices, *VALID, key.typical) if fits(key, value)]
        lines.setdefault(key.section, []).append(f"  {key.name}: {json.dumps(rng.choice(values))}")
    text = "\n".join(line for section, items in lines.items() for line in (f"{section}:", *items))
    return said((text.encode(), []))


VALID: tuple[Any, ...] = (
    0, 1, 2, 7, 100, 10**9, 0.5, 1e-9, 1e9, 1e300, 10**25, True, False, None, "auto", "x", ["q_proj"], ["x"], [0, 5], {}
)  # fmt: skip


def command_line(rng: random.Random) -> str:
    """Overrides that are misspelt, odd or no overrides at all, on top of a config of ours."""
    return said((rng.choice(shipped()), overrides(rng) + overrides(rng)))


def overrides(rng: random.Random) -> list[str]:
    """Up to three overrides; the command line hands on no NUL and no half character."""
    found = []
    for _ in range(rng.randint(0, 3)):
        name = rng.choice((rng.choice(word_list()), rng.choice(list(keys())), rng.choice(typos())[2], "", "a b"))
        found.append(name + rng.choice(("=", "=", "=", "", ":", " = ")) + rng.choice(ODD).replace("\0", ""))
    return found


DAMAGES = (
    spoilt_file, spoilt_file, spoilt_file, trap, trap, key_twice, number_out_of_place, another_section, any_bytes,
    words_and_odd_values, words_and_odd_values, any_mapping, valid_together, valid_together, command_line,
)  # fmt: skip


@functools.cache
def word_list() -> list[str]:
    """All words, in order, for the dice."""
    return sorted(WORDS | SOURCE_WORDS)


@functools.cache
def shipped() -> list[bytes]:
    """The configs that come with Luthier."""
    return [path.read_bytes() for path in SHIPPED]


# What must come of it ------------------------------------------------------------------------------------------------


def attempt(text: Text, rng: random.Random | None = None) -> tuple[Path, Loaded | ConfigError | str]:
    """Load a text: the file, and a config, an error in good form, or what is wrong with it."""
    raw, extra = text
    path = bench() / "c.yaml"
    path.write_bytes(raw)
    loaded, wrong = checked(lambda: load(path, extra), raw, rng or random.Random(0))
    return path, wrong or loaded


def said(text: Text) -> str:
    """What is wrong with the way a text ends."""
    _, caught = attempt(text, random.Random(len(text[0])))
    return caught if isinstance(caught, str) else ""


def differs(caught: Loaded | ConfigError | str, expected: list[tuple[str, str]], what: str) -> str:
    """ "" when the error has these codes at these places."""
    got = [(p.code, p.where) for p in caught.problems] if isinstance(caught, ConfigError) else caught
    return "" if got == expected else f"{what}: {got} instead of {expected}"


def checked(make: Any, raw: bytes | None, rng: random.Random) -> tuple[Loaded | ConfigError, str]:
    """The config or the error, and what is wrong with that."""
    try:
        loaded = make()
        assert isinstance(loaded, Loaded)
        plan = resolve(loaded, *facts(rng))
        assert isinstance(plan, Plan)
        COUNTS["plans"] += 1
        return loaded, ""
    except ConfigError as error:
        COUNTS["errors"] += 1
        return error, bad_form(error, raw)


def bad_form(error: ConfigError, raw: bytes | None) -> str:
    """What is wrong with the form of an error: every problem has a place, what was found and a fix, in clean text."""
    if error.exit_code != 2 or not error.problems:
        return f"no problem, or exit code {error.exit_code}"
    lines = len(re.split(b"\r\n|\r|\n", raw)) if raw is not None else 0
    for problem in error.problems:
        text = problem.render()
        if not (problem.where and problem.found and problem.fix):
            return f"a part is missing: {problem}"
        if not all(line.isprintable() for line in text.split("\n")) or len(text) > 2000:
            return f"not fit for a screen: {text!r}"
        file, _, line = problem.where.rpartition(":")
        if raw is not None and file.endswith("c.yaml") and line.isdigit() and not 1 <= int(line) <= lines + 1:
            return f"there is no such line ({lines} lines): {text}"
    return ""


def facts(rng: random.Random) -> Iterator[Any]:
    """A machine, and perhaps a model and rows."""
    cuda = rng.random() < 0.5
    yield MachineFacts(
        "cuda" if cuda else "cpu", "a device", rng.choice((1, 1, 4)), cuda, 24.0, 20.0, 8, rng.random() < 0.8
    )
    known = rng.random() < 0.7
    yield ModelFacts("LlamaForCausalLM", 10**6, 10**4, 2, 64, 400, 512, rng.random() < 0.8) if known else None
    rows = rng.choice((1, 5, 1000))
    yield DataFacts(rows, rng.choice((0, 3)), 50 * rows, 20 * rows, 90, "alpaca", "f00d") if known else None
