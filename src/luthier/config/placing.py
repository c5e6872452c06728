"""Brings every setting of a YAML to its place: own keys, keys in another section, and foreign keys.

    learning_rate: 1e-4           ->  training.learning_rate       (moved: the name is unique)
    lora: {rank: 8}               ->  lora.r                       (alias)
    adapter: qlora                ->  training.finetuning_type and quantization.load_in_4bit
    tf32: true                    ->  nothing, with a note
    learning_rat: 1e-4            ->  an error with the nearest known key

Not covered: whether the values are right (`luthier.config.load`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from luthier.config import aliases, meanings
from luthier.config.keys import SECTIONS, by_name, closest, is_one_slip, keys, source_keys
from luthier.config.tree import Node, from_python, printable, shown
from luthier.errors import Problem

MAX_KEYS = 500

_SECRET_NAME = re.compile(r"(?i)(^|_)(token|api_?key|secret|password|passwd|access_?key)$")
_NOT_SECRET = re.compile(r"(?i)(pad|eos|bos|unk|sep|cls|mask|eot)_token$")


@dataclass(frozen=True)
class Setting:
    """One key at its place.

    Attributes:
        key: Dotted key of Luthier.
        node: Its value.
        spelled: How the user wrote the key.
    """

    key: str
    node: Node
    spelled: str


@dataclass
class Placed:
    """What the keys of one tree came to."""

    settings: dict[str, Setting] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, setting: Setting) -> None:
        """Keep `setting`; the same key twice is fine only when both say the same, or one is null: not set."""
        first = self.settings.get(setting.key)
        if first is None or first.node.value is None:
            self.settings[setting.key] = setting
        elif setting.node.value is not None and first.node.plain() != setting.node.plain():
            self.problems.append(_set_twice(first, setting))


def _set_twice(first: Setting, again: Setting) -> Problem:
    """E-CFG-006, for two lines, or two overrides."""
    values = shown(first.node.plain()), shown(again.node.plain())
    if again.node.place.startswith("override "):
        found = f"{again.key} is set to {values[0]} by one override, and to {values[1]} by a later one"
        why = "both win over the config; you could not know which value was trained with"
        return Problem("E-CFG-006", found, "keep one of the two overrides", again.node.place, why)
    found = (
        f"{printable(again.spelled)} sets {again.key} to {values[1]}, which "
        f"{printable(first.spelled)} ({first.node.place}) set to {values[0]}"
    )
    return Problem("E-CFG-006", found, "keep one of the two lines", again.node.place)


def place_settings(root: Node) -> Placed:
    """Bring all keys of `root` (a mapping, or nothing) to their places."""
    placed = Placed()
    if root.value is None:
        return placed
    if not isinstance(root.value, dict):
        kind = "a list" if isinstance(root.value, tuple) else shown(root.value)
        fix = "write sections with keys, for example `training:` and below it `  learning_rate: 2e-4`"
        placed.problems.append(Problem("E-CFG-005", f"the config is {kind}, not keys and values", fix, root.place))
        return placed
    count = sum(len(node.value) if isinstance(node.value, dict) else 1 for node in root.value.values())
    if count > MAX_KEYS:
        fix = "name a training config, not a dataset or another tool's file"
        placed.problems.append(Problem("E-CFG-007", f"{count:,} keys; a config has {len(keys())}", fix, root.place))
        return placed
    for name, node in root.value.items():
        _place_top(placed, name, node)
    return placed


def _place_top(placed: Placed, name: str, node: Node) -> None:
    section = aliases.SECTION_NAMES.get(name, name)
    if section not in SECTIONS or (name in aliases.RENAMED and node.value is not None and not _is_section(node)):
        _place(placed, name, node, "")
    elif isinstance(node.value, dict):
        if section != name:
            placed.notes.append(f"{name} ({node.place}) is read as the section {section}.")
        for key, item in node.value.items():
            _place(placed, key, item, section)
    elif node.value is not None:
        example = next(key for key in keys().values() if key.section == section)
        found = f"the section {name} holds {shown(node.plain())}, not keys"
        fix = f"{name}: {{{example.name}: {shown(example.typical)}}}"
        placed.problems.append(Problem("E-CFG-005", found, fix, node.place))


def _is_section(node: Node) -> bool:
    return isinstance(node.value, dict) and "path" not in node.value


def _place(placed: Placed, name: str, node: Node, section: str) -> None:
    """Place one key that stands in `section` (empty: at the top)."""
    head, dot, tail = name.partition(".")
    if dot and aliases.SECTION_NAMES.get(head, head) in SECTIONS and not section:
        _place(placed, tail, node, aliases.SECTION_NAMES.get(head, head))
    elif f"{section}.{name}" in keys():
        _set(placed, f"{section}.{name}", node, name)
    elif name in by_name():
        key = by_name()[name]
        if not node.place.startswith("override "):
            placed.notes.append(f"{name} ({node.place}) is read as {key}.")
        _set(placed, key, node, name)
    elif name in aliases.RENAMED:
        key = aliases.RENAMED[name]
        placed.notes.append(f"{name} ({node.place}) is called {key} here.")
        _set(placed, key, node, name)
    elif name in meanings.KEYS:
        _apply(placed, meanings.KEYS[name](node.plain()), name, node)
    elif name in aliases.DECIDED:
        placed.notes.append(f"{name} ({node.place}) has no effect: {aliases.DECIDED[name]}.")
    elif name in aliases.UNSUPPORTED:
        _unsupported(placed, name, node)
    else:
        placed.problems.append(unknown_key(name, node, section))


def _set(placed: Placed, key: str, node: Node, spelled: str) -> None:
    if key == "data.datasets":
        placed.add(Setting(key, _sources(placed, node), spelled))
        return
    translate = meanings.VALUES.get(key)
    meaning = translate(node.plain()) if translate else None
    if meaning is None:
        placed.add(Setting(key, node, spelled))
    else:
        _apply(placed, meaning, spelled, node)


def _apply(placed: Placed, meaning: meanings.Meaning, spelled: str, node: Node) -> None:
    said = f"{printable(spelled)}: {shown(node.plain())}"
    if meaning.refused:
        found = f"{said} cannot be honoured: {printable(spelled)} {meaning.refused}"
        placed.problems.append(Problem("E-CFG-009", found, meaning.fix, node.place))
        return
    for key, value in meaning.sets:
        placed.add(Setting(key, from_python(value, node.place), spelled))
    became = " and ".join(f"{key}: {shown(value)}" for key, value in meaning.sets)
    reason = f" ({meaning.note})" if meaning.note else ""
    placed.notes.append(
        f"{said} ({node.place}) " + (f"is {became} here{reason}." if became else f"asks for nothing here{reason}.")
    )


def _unsupported(placed: Placed, name: str, node: Node) -> None:
    neutral, why, fix = aliases.UNSUPPORTED[name]
    value = node.plain()
    if any(value == item and isinstance(value, bool) == isinstance(item, bool) for item in neutral):
        placed.notes.append(f"{name}: {shown(value)} ({node.place}) asks for nothing here.")
    else:
        found = f"{name}: {shown(value)} cannot be honoured: {name} {why}"
        placed.problems.append(Problem("E-CFG-009", found, fix, node.place))


def _sources(placed: Placed, node: Node) -> Node:
    """`datasets` as a list of mappings, whatever short form it was written in."""
    items = node.value if isinstance(node.value, tuple) else (node,)
    return Node(tuple(_source(placed, item) for item in items), node.place)


def _source(placed: Placed, node: Node) -> Node:
    if isinstance(node.value, str):
        return Node({"path": node}, node.place)
    if not isinstance(node.value, dict):
        return node
    keys_: dict[str, Node] = {}
    misspelt: dict[str, Node] = {}
    for name, item in node.value.items():
        key = name
        if name not in source_keys() and name in aliases.SOURCE_NAMES:
            key = aliases.SOURCE_NAMES[name]
        if key in aliases.SOURCE_DECIDED:
            placed.notes.append(f"{name} ({item.place}) has no effect: the file's own ending says its kind.")
            continue
        if key != name:
            placed.notes.append(f"{name} ({item.place}) is called {key} here.")
        if key not in source_keys():
            near = closest(name, dict.fromkeys(source_keys(), 0.01) | dict.fromkeys(aliases.SOURCE_NAMES, 0.0))
            near = aliases.SOURCE_NAMES.get(near or "", near)
            placed.problems.append(_unknown_source_key(name, item, near))
            misspelt[near or ""] = item
        elif key in keys_:
            found = f"{name} sets {key} of this dataset, which is set already ({keys_[key].place})"
            placed.problems.append(Problem("E-CFG-006", found, "keep one of the two lines", item.place))
        else:
            named = isinstance(item.value, str) and key == "format"
            keys_[key] = Node(aliases.SOURCE_FORMATS.get(item.value, item.value), item.place) if named else item
    if "path" not in keys_ and "path" in misspelt:  # told already; that the path is missing would be told besides
        keys_["path"] = misspelt["path"]
    return Node(keys_, node.place)


def _unknown_source_key(name: str, node: Node, near: str | None) -> Problem:
    fix = f'did you mean "{near}"?' if near else "the keys of a dataset are " + ", ".join(source_keys())
    if name in aliases.UNSUPPORTED:
        fix = aliases.UNSUPPORTED[name][2]
    return Problem("E-CFG-008", f'unknown key "{printable(name)[:80]}" in a dataset', fix, node.place)


def unknown_key(name: str, node: Node, section: str) -> Problem:
    """The error for a key that nobody knows, with the nearest one that somebody does."""
    if _SECRET_NAME.search(name) and not _NOT_SECRET.search(name) and isinstance(node.value, str) and node.value:
        found = f'"{printable(name)[:80]}" looks like a secret'
        fix = "remove the line and set the environment variable instead (HF_TOKEN, WANDB_API_KEY, ...)"
        return Problem("E-CFG-013", found, fix, node.place)
    word = name.rpartition(".")[2]
    if word in source_keys():
        fix = f"it is one of a dataset: data.datasets: [{{path: ..., {word}: ...}}]"
    else:
        fix = _suggest(name, _nearest(name, section), node, section)
    return Problem("E-CFG-008", f'unknown key "{printable(name)[:80]}"', fix, node.place)


def _nearest(name: str, section: str) -> str | None:
    return closest(name.rpartition(".")[2], _known(section)) or closest(name, _known(section))


def _suggest(word: str, near: str | None, node: Node, section: str) -> str:
    """What to write for a word that nobody knows: one of our keys, and of other tools' what becomes of it here."""
    slip = near is not None and is_one_slip(word.rpartition(".")[2].lower(), near.lower())
    if near is None or (not slip and (near in aliases.UNSUPPORTED or near in aliases.DECIDED)):
        return "see all keys with `luthier schema`, or remove the line"
    if near in SECTIONS:
        return f'did you mean "{near}" (a section)?'
    if near in aliases.UNSUPPORTED:
        _, why, fix = aliases.UNSUPPORTED[near]
        return f"{fix} ({near} {why})"
    if near in aliases.DECIDED:
        return f"remove the line: {near} has no effect here ({aliases.DECIDED[near]})"
    if near in meanings.KEYS:
        meaning = meanings.KEYS[near](node.plain())
        became = " and ".join(f"{key.partition('.')[2]}: {shown(value)}" for key, value in meaning.sets)
        return meaning.fix or (f'did you mean "{near}"? Here that is {became}' if became else f'did you mean "{near}"?')
    home, _, name = by_name().get(near, aliases.RENAMED.get(near, "")).partition(".")
    if name != near:
        return f'did you mean "{name}" (section {home})? {near} is its name in other tools'
    return f'did you mean "{near}"?' + ("" if home == section else f" It belongs to the section {home}")


@cache
def _known(section: str) -> Mapping[str, float]:
    """All words that may be meant, own ones and those of the same section first."""
    words: dict[str, float] = {}
    for table in (aliases.UNSUPPORTED, aliases.DECIDED, meanings.KEYS, aliases.RENAMED):
        words |= dict.fromkeys(table, 0.0)
    words |= dict.fromkeys(by_name(), 0.01)
    words |= {name: 0.015 for name, key in aliases.RENAMED.items() if section and key.startswith(f"{section}.")}
    words |= {key.name: 0.02 for key in keys().values() if key.section == section}
    if not section:
        words |= dict.fromkeys(SECTIONS, 0.02)
    return words


def meant(word: str) -> str | None:
    """The key, our own or another tool's, that a word of the command line is; or the nearest one to it."""
    name = word.replace("-", "_")
    return name if name.rpartition(".")[2] in _known("") else _nearest(name, "")
