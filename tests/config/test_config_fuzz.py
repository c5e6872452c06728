"""Whatever is in the file: a config or a ConfigError, never anything else. And typos find their key."""

from __future__ import annotations

import random
import re
import string
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.config import aliases, meanings
from luthier.config.keys import SECTIONS, by_name, keys
from luthier.config.load import Loaded, from_dict, load
from luthier.errors import ConfigError

derandomized = settings(derandomize=True, max_examples=300, deadline=None, database=None)
WORDS = sorted({*by_name(), *SECTIONS, *aliases.RENAMED, *aliases.DECIDED, *aliases.UNSUPPORTED, *meanings.KEYS})
ODD = [
    "1e-4", "1e999", "-1", "0", "~", "no", "true", ".nan", "0777", "12:30", "[]", "{}", "[1, [2, {a: 3}]]", "'4'",
    '"\\ud800"', "*a", "&a 1", "!!int 3", "<<", "? ", "- x", "|", ">", "%", "@", "`", "\t", "\x00", "\ufeff", "#",
    "9" * 5000, "-.inf", "hf_" + "a" * 30, "${NOPE}", "~x", "{path: x}", "[{path: 1}]", "!", "auto",
    "all", "none", "qlora", "q_proj,v_proj",
]  # fmt: skip


def attempt(raw: bytes, overrides: list[str] | None = None) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "c.yaml")
        path.write_bytes(raw)
        try:
            assert isinstance(load(path, overrides or []), Loaded)
        except ConfigError as error:
            assert error.problems
            assert all(problem.found and problem.fix for problem in error.problems)
            str(error).encode()


@derandomized
@given(st.binary(max_size=200))
def test_any_bytes(raw):
    attempt(raw)


@derandomized
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
@example("&a : *a")
@example("%YAML 9.9\n---\na")
@example("%TAG ! x\n---\n!a b")
@example('"\\x"')
@example("a: !<x> b")
def test_any_text(text):
    attempt(text.encode())


lines = st.tuples(
    st.sampled_from(["", "  ", "    ", "- ", "\t"]), st.sampled_from(WORDS), st.sampled_from([": ", ":", " ", ":\n  "]),
    st.sampled_from(ODD) | st.text(max_size=5),
)  # fmt: skip


@derandomized
@given(st.lists(lines, max_size=8), st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(ODD)), max_size=2))
def test_text_that_looks_like_a_config(parts, overrides):
    text = "\n".join("".join(part) for part in parts)
    attempt(text.encode("utf-8", "replace"), [f"{key}={value}" for key, value in overrides])


@derandomized
@given(st.sampled_from(WORDS), st.sampled_from(ODD), st.sampled_from([None, *SECTIONS]))
def test_one_key_with_an_odd_value(key, value, section):
    text = f"{key}: {value}\n" if section is None else f"{section}:\n  {key}: {value}\n"
    attempt(text.encode("utf-8", "surrogatepass"))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["auto", "x.jsonl"])
    | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@derandomized
@given(st.dictionaries(st.sampled_from(sorted(SECTIONS)), st.dictionaries(st.sampled_from(WORDS), plain, max_size=4)))
def test_random_nested_values(mapping):
    try:
        from_dict(mapping)
    except ConfigError as error:
        str(error).encode()


@derandomized
@given(st.dictionaries(st.sampled_from(WORDS), plain, max_size=5))
def test_random_values_as_yaml(mapping):
    attempt(yaml.safe_dump(mapping, allow_unicode=True).encode("utf-8", "surrogatepass"))


def typos(word: str, rng: random.Random) -> set[str]:
    made = {word[:i] + word[i + 1 :] for i in range(len(word))}
    made |= {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    made |= {word[:i] + rng.choice(string.ascii_lowercase) + word[i + 1 :] for i in range(len(word))}
    return made - {word, ""}


def test_typos_find_their_key():
    """One letter wrong in any key of two letters or more: refused, and the right key is named in 95 % of them."""
    rng = random.Random(0)
    right = wrong = 0
    misses = []
    for key in keys().values():
        if len(key.name) < 2:
            continue
        for typo in sorted(typos(key.name, rng)):
            if typo in WORDS:
                continue
            try:
                from_dict({rng.choice([typo, f"{key.section}.{typo}"]): key.typical})
            except ConfigError as error:
                named = re.findall(r'did you mean "([^"]+)"', error.problems[0].fix)
                hit = error.problems[0].code == "E-CFG-008" and named == [key.name]
                right, wrong = right + hit, wrong + (not hit)
                misses += [] if hit else [(typo, named)]
            else:
                raise AssertionError(f"{typo} was accepted")
    assert right + wrong > 2000
    assert right / (right + wrong) >= 0.95, misses
