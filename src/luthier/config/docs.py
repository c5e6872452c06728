"""What the schema says of itself: the JSON schema for editors, and ``luthier explain KEY``."""

from __future__ import annotations

import re
from typing import Any

from luthier.config import aliases, meanings
from luthier.config.keys import SECTIONS, Key, by_name, keys, line, source_keys
from luthier.config.schema import Config
from luthier.config.tree import shown


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) with which editors complete and check a config."""
    schema = Config.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Luthier training config",
    }


def list_keys() -> str:
    """All keys by section, each with the first sentence of its text, for the terminal."""
    parts = []
    for name, section in SECTIONS.items():
        parts.append(f"{name}: {_paragraph(section.__doc__)}")
        inside = [key for key in keys().values() if key.section == name]
        parts += [f"  {key.name:<28} {_first_sentence(key.text)}" for key in inside]
    return "\n".join(parts)


def explain_key(key: str) -> str:
    """What one key does, for the terminal.

    Args:
        key: Dotted or bare; other frameworks' names work too.

    Raises:
        KeyError: No such key. Its only argument is the sentence for the user.
    """
    name = aliases.RENAMED.get(key, key)
    found = keys().get(name) or keys().get(by_name().get(name, "")) or source_keys().get(name.rpartition(".")[2])
    if found is not None and (found.section != "source" or name in (found.name, f"data.datasets.{found.name}")):
        return _explained(found, key)
    if key in aliases.DECIDED:
        return f"{key} has no effect in Luthier: {aliases.DECIDED[key]}."
    if key in aliases.UNSUPPORTED:
        _, why, fix = aliases.UNSUPPORTED[key]
        return f"{key} is a key of another tool. It {why}.\nInstead: {fix}"
    if key in meanings.KEYS:
        return f"{key} is a key of another tool. It is accepted and translated; the plan says to what."
    if key in SECTIONS:
        inside = ", ".join(k.name for k in keys().values() if k.section == key)
        return f"{key}: {_paragraph(SECTIONS[key].__doc__)}\nKeys: {inside}"
    raise KeyError(f'no key "{key}"')


def _explained(key: Key, asked: str) -> str:
    where = "one entry of data.datasets" if key.section == "source" else f"section {key.section}"
    lines = [f"{key.name} ({where})"]
    if asked not in (key.name, key.dotted) and asked in aliases.RENAMED:
        lines.append(f"  {asked} is its name in other tools")
    lines += [f"  {key.text}", f"  expects  {key.expects}", f"  default  {default(key)}"]
    lines.append(f"  example  {line(key, key.typical)}")
    names = sorted(name for name, target in aliases.RENAMED.items() if target == key.dotted)
    if names:
        lines.append(f"  also as  {', '.join(names)}")
    return "\n".join(lines)


def default(key: Key) -> str:
    """The default of a key, in words."""
    if key.required:
        return "none, it has to be given"
    if key.name == "datasets":
        return shown(key.default[0]["path"])
    return f"`{shown(key.default, 200)}`" if not isinstance(key.default, str) else f"`{key.default}`"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<!et al)\. ", _paragraph(text))[0].removesuffix(".")


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split())
