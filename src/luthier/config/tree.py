"""YAML text to a tree that remembers where each key stands.

The scalars are those of YAML 1.2, as people expect them: ``1e-4`` is a number, ``no`` and ``on`` are words, ``0777``
and ``12:30:45`` stay as written. Duplicate keys, tags, deep nesting and aliases that blow up are errors, not surprises.

The tree is built from parser events and not with PyYAML's composer, because that one recurses without a bound and
keeps the last of two equal keys.

Not covered: what the keys mean (`luthier.config.placing`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePath
from typing import Any

import yaml

from luthier.errors import ConfigError, Problem

MAX_DEPTH = 20
MAX_NODES = 20_000

_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,29})")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]{1,9})?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}


@dataclass(frozen=True)
class Node:
    """A value and its place.

    Attributes:
        value: None, bool, int, float, str, a tuple of nodes or a dict of nodes.
        place: Where the key (or the list item) stands: ``file:line``, ``override key=value`` or ``dict``.
        size: Nodes in it, itself included, with every alias written out.
    """

    value: Any
    place: str
    size: int = 1

    def plain(self) -> Any:
        """The value as plain Python: lists and dicts instead of nodes."""
        if isinstance(self.value, tuple):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value

    def find(self, path: Sequence[str | int]) -> tuple[Node, tuple[str | int, ...]]:
        """The deepest node on `path`, and the part of the path that leads to it; other steps are passed over."""
        node: Node = self
        walked: list[str | int] = []
        for step in path:
            is_item = isinstance(node.value, tuple) and isinstance(step, int) and step < len(node.value)
            if is_item or (isinstance(node.value, dict) and step in node.value):
                node = node.value[step]
                walked.append(step)
        return node, tuple(walked)


def scalar(text: str) -> Any:
    """The value of an unquoted YAML scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def shown(value: Any, limit: int = 60) -> str:
    """A value as YAML would have it, on one line, harmless on a terminal, cut at `limit` characters."""
    if isinstance(value, str):
        text = '"' + printable(value) + '"'
    elif value is None:
        text = "null"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, float):
        text = number(value)
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{printable(str(k))}: {shown(v, limit)}" for k, v in list(value.items())[:8]) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(item, limit) for item in list(value)[:8]) + "]"
    else:
        text = printable(str(value))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def number(value: float) -> str:
    """A float the way people write it in a config: ``2e-4``, ``0.05``, ``3``."""
    if value == value and abs(value) < 1e15 and value == int(value):
        return str(int(value))
    text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if 0 < abs(value) < 1e-3 and "e" not in text:
        text = f"{Decimal(text):e}"  # with all of its digits
    return re.sub(r"e([-+])0*(\d)", lambda m: f"e{m[1].replace('+', '')}{m[2]}", text)


def printable(text: str) -> str:
    """`text` with control and direction characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def read_yaml(text: str, locate: Callable[[int], str]) -> Node:
    """Parse one YAML document.

    Args:
        text: The document.
        locate: Turns a line (from 1) into the place that is shown.

    Raises:
        ConfigError: E-CFG-004 (syntax), -006 (duplicate key), -007 (too deep, too many aliases), -016 (tag).
    """
    return _Reader(text, locate).read()


def from_python(value: Any, place: str = "dict", depth: int = 0) -> Node:
    """The tree of a Python mapping.

    Raises:
        ConfigError: E-CFG-007 when it is nested too deep, E-CFG-010 for values that no YAML could hold.
    """
    if depth > MAX_DEPTH:
        raise ConfigError(_too_much(place, f"nested more than {MAX_DEPTH} deep"))
    if isinstance(value, Mapping):
        return Node({str(key): from_python(item, place, depth + 1) for key, item in value.items()}, place)
    if isinstance(value, (list, tuple)):
        return Node(tuple(from_python(item, place, depth + 1) for item in value), place)
    if isinstance(value, PurePath):
        return Node(str(value), place)
    if value is None or isinstance(value, (bool, int, float, str)):
        return Node(value, place)
    kind = type(value).__name__
    raise ConfigError(
        Problem("E-CFG-010", f"a value of type {kind}", "give numbers, text, true/false, lists and dicts", place)
    )


def _too_much(place: str, found: str) -> Problem:
    return Problem("E-CFG-007", found, "write the values out flat, without anchors", place)


class _Reader:
    """Builds the tree from parser events; its depth is bounded, so that it may recurse."""

    def __init__(self, text: str, locate: Callable[[int], str]) -> None:
        self.text = text
        self.locate = locate
        self.anchors: dict[str, Node | None] = {}
        self.duplicates: list[Problem] = []
        self.events: Iterator[Any] = iter(())

    def read(self) -> Node:
        try:
            self.events = yaml.parse(self.text, Loader=yaml.SafeLoader)
            root = self._document()
        except yaml.YAMLError as error:
            raise ConfigError(self._syntax(error)) from None
        except ConfigError:
            raise
        except (ValueError, OverflowError) as error:
            problem = Problem("E-CFG-004", f"broken YAML: {error}", "correct the escape sequence", self.locate(1))
            raise ConfigError(problem) from None
        if self.duplicates:
            raise ConfigError(*self.duplicates)
        return root

    def _document(self) -> Node:
        root = Node(None, self.locate(1))
        documents = 0
        for event in self.events:
            if isinstance(event, (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentEndEvent)):
                continue
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    found = "a second document begins here (---)"
                    raise ConfigError(Problem("E-CFG-004", found, "keep one document in a file", self._place(event)))
                continue
            root = self._node(event, self._place(event), 0)
        return root

    def _place(self, event: Any) -> str:
        return self.locate(event.start_mark.line + 1)

    def _node(self, event: Any, place: str, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise ConfigError(_too_much(self._place(event), f"nested more than {MAX_DEPTH} deep"))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, place)
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            found = f"the tag {printable(tag)[:60]}"
            raise ConfigError(Problem("E-CFG-016", found, "remove the tag and keep the value", self._place(event)))
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = Node(scalar(event.value) if event.style is None and tag is None else event.value, place)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(place, depth)
        else:
            node = self._mapping(place, depth)
        if node.size > MAX_NODES:
            raise ConfigError(_too_much(place, f"more than {MAX_NODES:,} values"))
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, place: str) -> Node:
        if event.anchor not in self.anchors:
            found = f"*{event.anchor[:60]} has no anchor before it"
            raise ConfigError(Problem("E-CFG-004", found, "write the value itself", self._place(event)))
        node = self.anchors[event.anchor]
        if node is None:
            raise ConfigError(_too_much(self._place(event), f"*{event.anchor[:60]} contains itself"))
        return Node(node.value, place, node.size)

    def _sequence(self, place: str, depth: int) -> Node:
        items: list[Node] = []
        size = 1
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, self._place(event), depth + 1))
            size += items[-1].size
            if size > MAX_NODES:
                raise ConfigError(_too_much(self._place(event), f"more than {MAX_NODES:,} values"))
        return Node(tuple(items), place, size)

    def _mapping(self, place: str, depth: int) -> Node:
        items: dict[str, Node] = {}
        size = 1
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            at = self._place(event)
            if not isinstance(event, yaml.ScalarEvent):
                found = "a key that is not a plain word"
                raise ConfigError(Problem("E-CFG-004", found, "write `key: value`", at))
            if event.value in items:
                found = f'key "{printable(event.value)[:80]}" stands twice: first at {items[event.value].place}'
                self.duplicates.append(Problem("E-CFG-006", found, "keep one of the two lines", at))
            items[event.value] = self._node(next(self.events), at, depth + 1)
            size += items[event.value].size
            if size > MAX_NODES:
                raise ConfigError(_too_much(at, f"more than {MAX_NODES:,} values"))
        return Node(items, place, size)

    def _syntax(self, error: yaml.YAMLError) -> Problem:
        if isinstance(error, yaml.MarkedYAMLError):
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            what = error.problem or error.context or "cannot be read"
        else:
            position = getattr(error, "position", 0)
            before = self.text[:position] if isinstance(position, int) else ""
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
            what = f"the character {printable(chr(getattr(error, 'character', 0)))} may not stand in YAML"
        lines = self.text.split("\n")
        near = lines[line - 1] if line <= len(lines) else ""
        fix = "write `key: value`, one a line, and indent with two spaces"
        if "\t" in near[: max(column, len(near) - len(near.lstrip()))] or "\\t" in what:
            what, fix = "a tab", "replace the tab with spaces"
        elif "mapping values are not allowed" in what:
            fix = 'put text that holds ": " in quotes, and check the indentation of this line and the one before'
        place = self.locate(line)
        return Problem("E-CFG-004", f"column {column}: {printable(what)[:200]}", fix, place)
