"""Loads a YAML (or a Python mapping) and overrides into a `Config`, or says everything that is wrong at once.

    text -> tree with lines -> settings at their places -> overrides on top -> texts checked -> pydantic -> Loaded

Not covered: combinations of keys (`luthier.config.rules`) and ``auto`` (`luthier.config.resolve`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from luthier.config.keys import keys
from luthier.config.outputs import RECORD
from luthier.config.placing import Placed, Setting, place_settings
from luthier.config.plan import Passes
from luthier.config.problems import translate
from luthier.config.schema import Config, nested
from luthier.config.tree import Node, from_python, printable, read_yaml
from luthier.config.values import clean
from luthier.errors import ConfigError, Problem

MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Record:
    """What the plan.yaml of an earlier run says; see `luthier.config.record`.

    Attributes:
        path: The file.
        facts: Its part `record`.
        passes: How a step went through the model.
        changed: Dotted keys that overrides change.
    """

    path: Path
    facts: dict[str, Any]
    passes: Passes
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """A valid config and where its values come from.

    Attributes:
        config: The config, with ``auto`` still in it.
        sources: Dotted key -> ``configs/x.yaml:14``, ``override``, ``dict`` or ``default``. Holds every key.
        notes: Foreign keys and keys in another section, one sentence each.
        path: The file; ``dict`` for a mapping.
        record: The run that this one does again; None for any other.
    """

    config: Config
    sources: dict[str, str]
    notes: tuple[str, ...]
    path: Path
    record: Record | None = None

    @property
    def written(self) -> dict[str, dict[str, Any]]:
        """Section -> key -> value, without what is only a default."""
        values = self.config.model_dump(mode="json")
        return {
            section: {name: value for name, value in part.items() if self.sources[f"{section}.{name}"] != "default"}
            for section, part in values.items()
        }


def load(path: Path | str, overrides: Sequence[str] = ()) -> Loaded:
    """Load a config file.

    Args:
        path: A YAML file; where there is none of that name, the one that comes with Luthier
            (`configs/quickstart.yaml`).
        overrides: ``key=value``, the key dotted or bare, the value in YAML. They win over the file.

    Raises:
        ConfigError: With all problems that were found.
    """
    path = _shipped(path)
    if _is_rows(path):
        fix = f"write them into a config: `data: {{datasets: [{{path: {printable(str(path))}}}]}}`"
        raise ConfigError(Problem("E-CFG-005", "these are rows, not a config", fix, printable(str(path))))
    root = read_yaml(read_text(path), lambda number: f"{path}:{number}")
    if isinstance(root.value, dict) and root.value.keys() >= {"config", "record"}:
        found = "is the record of a run, not a config"
        raise ConfigError(Problem("E-CFG-001", found, _again(path), printable(str(path))))
    return build(place_settings(root), overrides, Path(path))


def _shipped(path: Path | str) -> Path | str:
    """A config of this installation, where the path is `configs/NAME.yaml` and no file below this folder."""
    head, name = os.path.split(path)
    package = Path(__file__).parents[1]
    places = [folder / "configs" / name for folder in (package.parents[1], package)]  # a checkout, a wheel
    if head != "configs" or os.path.exists(path):  # noqa: PTH110 (pathlib raises for what is no name)
        return path
    return next((place for place in places if os.path.isfile(place)), path)  # noqa: PTH113


def _is_rows(path: Path | str) -> bool:
    """Whether a path is that of an existing file with an ending that only rows have (a config may be JSON)."""
    return str(path).lower().endswith((".jsonl", ".csv", ".parquet")) and os.path.isfile(path)  # noqa: PTH113


def from_dict(mapping: Mapping[str, Any], overrides: Sequence[str] = ()) -> Loaded:
    """Load a config from a Python mapping of the same shape as the YAML, with the same checks.

    Raises:
        ConfigError: With all problems that were found.
    """
    return build(place_settings(from_python(mapping)), overrides, Path("dict"))


def read_text(path: Path | str) -> str:
    """The text of a config.

    Raises:
        ConfigError: E-CFG-001 to E-CFG-003: not there, not UTF-8, too large.
    """
    shown = printable(str(path))
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        inside = sorted(p.name for p in Path(path).iterdir() if p.suffix in {".yaml", ".yml"})
        fix = f"name a file, for example {Path(path, *inside[:1])}" if inside else "name a .yaml file"
        fix = _again(path) if RECORD in inside else fix
        raise ConfigError(Problem("E-CFG-001", "is a folder, not a file", fix, shown)) from None
    except FileNotFoundError:
        raise ConfigError(Problem("E-CFG-001", "no such file", _nearby(Path(path)), shown)) from None
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        fix = "check the path and the permissions of the file"
        raise ConfigError(Problem("E-CFG-001", f"cannot be read: {what}", fix, shown)) from None
    if len(raw) > MAX_BYTES:
        fix = "name the config, not a dataset or a checkpoint"
        raise ConfigError(Problem("E-CFG-003", "is larger than 1 MiB", fix, shown))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        found = f"byte 0x{raw[error.start]:02x} is not UTF-8" + (" (the file is UTF-16)" if utf16 else "")
        encoding = "UTF-16" if utf16 else "LATIN1"
        fix = f"iconv -f {encoding} -t UTF-8 {Path(path).name} > new.yaml, or save it as UTF-8 in the editor"
        raise ConfigError(Problem("E-CFG-002", found, fix, f"{shown}:{line}")) from None


def _again(record: Path | str) -> str:
    shown = printable(str(record))
    return f"to see or do that run again: luthier plan --from {shown}, luthier train --from {shown}"


def _nearby(path: Path) -> str:
    for folder in (path.parent, Path("configs")):
        try:
            names = sorted(str(p) for p in folder.iterdir() if p.suffix in {".yaml", ".yml"})
        except (OSError, ValueError):
            continue
        if names:
            return "there is " + ", ".join(map(printable, names[:5]))
    return "check the path; Luthier brings configs/my_rows.yaml and configs/quickstart.yaml"


def build(placed: Placed, overrides: Sequence[str], path: Path) -> Loaded:
    """Check settings that are at their places, with overrides on top.

    Raises:
        ConfigError: With all problems that were found.
    """
    problems = list(placed.problems)
    notes = list(placed.notes)
    settings = dict(placed.settings)
    over = _overrides(overrides, problems, notes)
    settings |= over
    for key, setting in list(settings.items()):
        settings[key], wrong = clean(setting)
        if wrong:
            problems += wrong
            del settings[key]
    config = Config()
    try:
        config = Config.model_validate(nested({key: setting.node.plain() for key, setting in settings.items()}))
    except ValidationError as error:
        problems += translate(error.errors(include_url=False), settings)
    if problems:
        raise ConfigError(*sorted(problems, key=_line))
    sources = {
        key: "override" if key in over else settings[key].node.place if key in settings else "default" for key in keys()
    }
    return Loaded(config, sources, tuple(notes), path)


def changed(overrides: Sequence[str], *own: str) -> list[str]:
    """Overrides with those of `own` in place of others of the same key."""
    written = {name_of(override) for override in own}
    return [*(override for override in overrides if name_of(override) not in written), *own]


def name_of(override: str) -> str:
    """`r` of `lora.r=32`."""
    return override.partition("=")[0].split(".")[-1]


def _overrides(overrides: Sequence[str], problems: list[Problem], notes: list[str]) -> dict[str, Setting]:
    found = Placed()
    loose: list[str] = []
    for item in [overrides] if isinstance(overrides, str) else overrides:
        name, equals, text = item.partition("=")
        name = name.strip()
        if not equals or not name:
            loose.append(item)
            continue
        place = f"override {printable(name)[:80]}=..."
        try:
            value = read_yaml(text, lambda _, place=place: place)  # type: ignore[misc]
        except ConfigError as error:
            problems += error.problems
            continue
        one = place_settings(Node({name: value}, place))
        found.problems += one.problems
        found.notes += one.notes
        for setting in one.settings.values():
            found.add(setting)
    problems += [_no_override(loose)] if loose else []
    problems += found.problems
    notes += found.notes
    return found.settings


def _no_override(words: list[str]) -> Problem:
    """E-CFG-014 for the words that are no key=value, together."""
    config = next((word for word in words if word.endswith((".yaml", ".yml"))), "")
    words = [config] if config else [part for word in words if (part := word.strip(" ="))] or words
    shown = [printable(word)[:80] for word in words[:4]]
    if config:
        fix = f"one config, and it comes first: {shown[0]} learning_rate=..."
    elif len(shown) > 1:
        fix = "write " + " ".join(map("=".join, zip(shown[::2], shown[1::2], strict=False)))
    else:
        fix = f"write key=value, for example {shown[0] or 'learning_rate'}=..."
    return Problem("E-CFG-014", f'"{" ".join(shown)}" is no override', fix, "command line")


def _line(problem: Problem) -> tuple[str, int]:
    file, _, line = problem.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (problem.where, 0)
