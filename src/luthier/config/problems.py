"""Translates pydantic's validation errors to problems with a place, what was found and a line to write instead."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from luthier.config.keys import Key, closest, keys, line, source_keys
from luthier.config.placing import Setting
from luthier.config.schema import Config, DatasetSource
from luthier.config.tree import printable, scalar, shown
from luthier.errors import Problem

_RANGE = frozenset(
    {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number", "too_short",
     "int_parsing_size"}
)  # fmt: skip


def translate(errors: Sequence[Mapping[str, Any]], settings: Mapping[str, Setting]) -> list[Problem]:
    """One problem for each value that is wrong, in the order of the file.

    Args:
        errors: `ValidationError.errors()`. A union gives one error per member; they are told once.
        settings: What was validated, by dotted key.
    """
    told: dict[tuple[str, tuple[str | int, ...]], Problem] = {}
    kinds: dict[tuple[str, tuple[str | int, ...]], set[str]] = {}
    first: dict[tuple[str, tuple[str | int, ...]], Mapping[str, Any]] = {}
    for error in errors:
        dotted = ".".join(map(str, error["loc"][:2]))
        _, walked = settings[dotted].node.find(error["loc"][2:])
        if error["type"] == "missing":
            walked = (*walked, error["loc"][-1])
        kinds.setdefault((dotted, walked), set()).add(error["type"])
        first.setdefault((dotted, walked), error)
    for where, error in first.items():
        nested = any(
            other != where and other[0] == where[0] and other[1][: len(where[1])] == where[1] for other in first
        )
        if not nested:
            told[where] = _problem(keys()[where[0]], settings[where[0]], where[1], error, kinds[where])
    return list(told.values())


def _problem(
    key: Key, setting: Setting, path: tuple[str | int, ...], error: Mapping[str, Any], kinds: set[str]
) -> Problem:
    node, walked = setting.node.find(path)
    if error["type"] == "missing":
        return Problem("E-CFG-010", "a dataset without a path", "path: train.jsonl", node.place)
    inner = path[1] if key.name == "datasets" and len(path) > 1 else None
    if isinstance(inner, str) and inner in source_keys():
        key = source_keys()[inner]
    value = node.plain()
    code = "E-CFG-011" if kinds & (_RANGE | {"literal_error"}) and _right_type(key, value, kinds) else "E-CFG-010"
    name = printable(setting.spelled) if inner is None else f"{inner} of a dataset"
    item = f"item {walked[0] + 1} of " if inner is None and walked and isinstance(walked[0], int) else ""
    must = _must(key, value)
    if item:
        must = must.rpartition("a list of ")[2]
    fix = _typical(key) if item else _fix(key, value)
    return Problem(code, f"{item}{name} is {_found(value)}, but must be {must}", fix, node.place)


def _right_type(key: Key, value: Any, kinds: set[str]) -> bool:
    if kinds & _RANGE:
        return True
    return isinstance(value, str) and bool(key.choices)


def _found(value: Any) -> str:
    text = shown(value)
    return f"{text}.0" if isinstance(value, float) and text.lstrip("-").isdigit() else text


def _must(key: Key, value: Any) -> str:
    if isinstance(value, float) and "whole number" in key.expects:
        return key.expects.replace("a whole number", "a whole number (no decimals)")
    if isinstance(value, str) and "${" in value:
        return f"{key.expects} (environment variables are read in paths only)"
    return key.expects


def _fix(key: Key, value: Any) -> str:
    meant = _meant(key, value)
    return line(key, meant) if meant is not None and _valid(key, meant) else _typical(key)


def _valid(key: Key, value: Any) -> bool:
    try:
        if key.section == "source":
            DatasetSource.model_validate({"path": "x", key.name: value})
        else:
            Config.model_validate({key.section: {key.name: value}})
    except ValidationError:
        return False
    return True


def _typical(key: Key) -> str:
    if isinstance(key.typical, bool):
        return f"{line(key, key.typical)}, or {str(not key.typical).lower()}"
    if key.choices:
        return line(key, key.typical)
    return f"for example `{line(key, key.typical)}`"


def _meant(key: Key, value: Any) -> Any:
    """What the user most likely meant, or None."""
    if isinstance(value, str):
        word = value.strip()
        if "true or false" in key.expects and word.lower() in _SWITCHES:
            return _SWITCHES[word.lower()]
        digits = word.replace("_", "")
        guess = scalar(digits.replace(",", "" if _THOUSANDS.fullmatch(digits) else "."))
        if "number" in key.expects and isinstance(guess, (int, float)) and not isinstance(guess, bool):
            whole = isinstance(guess, float) and "whole number" in key.expects
            return _meant(key, guess) if whole else guess
        if key.choices:
            return closest(word, dict.fromkeys(key.choices, 0.0))
        if "a list of text" in key.expects:
            return [value]
    if isinstance(value, float) and "whole number" in key.expects and value == value and abs(value) < 1e15:
        return max(1, round(value)) if value > 0 else None
    if isinstance(value, int) and not isinstance(value, bool) and key.expects.startswith("text"):
        return str(value)
    if isinstance(value, int) and "true or false" in key.expects and value in (0, 1):
        return bool(value)
    return None


_THOUSANDS = re.compile(r"[0-9]{1,3}(,[0-9]{3})+")  # any other comma is that of a decimal number in many languages
_SWITCHES = {"yes": True, "on": True, "y": True, "true": True, "no": False, "off": False, "n": False, "false": False}
