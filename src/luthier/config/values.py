"""Checks and expansions of text values, before their types are checked.

Paths: ``~`` and ``${NAME}`` are expanded, and ``luthier:quickstart/base`` is what lies there in this package. Secrets
are refused wherever they stand: a config is shared, copied into checkpoints and printed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from luthier.config.keys import PATH_KEYS
from luthier.config.placing import Setting
from luthier.config.tree import Node, shown
from luthier.errors import Problem
from luthier.errors.secrets import holds_secret

PACKAGED = "luthier:"
PACKAGE = Path(__file__).parents[1]
"""What lies in it comes with every Luthier."""
_LONGEST_NAME = 255  # bytes, on the file systems that are usual
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def clean(setting: Setting) -> tuple[Setting, list[Problem]]:
    """The setting with its paths expanded, and everything that is wrong with its texts."""
    problems: list[Problem] = []
    node = _clean(setting.node, setting.key, setting.key in PATH_KEYS, problems)
    return Setting(setting.key, node, setting.spelled), problems


def _clean(node: Node, key: str, is_path: bool, problems: list[Problem]) -> Node:
    if isinstance(node.value, tuple):
        return Node(tuple(_clean(item, key, False, problems) for item in node.value), node.place)
    if isinstance(node.value, dict):
        items = {
            name: _clean(item, f"{key}.{name}", key == "data.datasets" and name == "path", problems)
            for name, item in node.value.items()
        }
        for name in items:
            _check_text(name, key, node.place, problems)
        return Node(items, node.place)
    if not isinstance(node.value, str) or not _check_text(node.value, key, node.place, problems):
        return node
    return Node(_path(node.value, key, node.place, problems), node.place) if is_path else node


def _check_text(text: str, key: str, place: str, problems: list[Problem]) -> bool:
    if _refuse_secret(text, key, place, problems):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        found = f"the text of {key} holds half of a character pair (\\ud800 to \\udfff)"
        problems.append(Problem("E-CFG-010", found, "write the character itself", place))
        return False
    return True


def _refuse_secret(text: str, key: str, place: str, problems: list[Problem]) -> bool:
    if not holds_secret(text):
        return False
    fix = "remove it and set the environment variable instead (HF_TOKEN, WANDB_API_KEY, ...)"
    problems.append(Problem("E-CFG-013", f"the value of {key} holds a secret", fix, place))
    return True


def _path(text: str, key: str, place: str, problems: list[Problem]) -> str:
    unset = sorted({name for name in _VARIABLE.findall(text) if name not in os.environ})
    if unset:
        found = f"{key} is {shown(text)}, but the environment has no {shown(unset[0])}"
        problems.append(Problem("E-CFG-012", found, f"export {unset[0] or 'NAME'}=..., or write the path out", place))
        return text
    expanded = _VARIABLE.sub(lambda match: os.environ[match[1]], text)
    if expanded != text and _refuse_secret(expanded, key, place, problems):
        return text
    if expanded.startswith("~"):
        expanded = os.path.expanduser(expanded)  # noqa: PTH111 (pathlib would also normalise hub ids)
    if expanded.startswith(PACKAGED):
        return _packaged(expanded, key, place, problems)
    if not expanded.strip() or not expanded.isprintable():
        found = f"{key} is {shown(expanded)}, which is no path"
        problems.append(Problem("E-CFG-015", found, "write a folder, a file or a hub id (owner/name)", place))
    elif any(len(os.fsencode(name)) > _LONGEST_NAME for name in Path(expanded).parts):
        found = f"{key} is {shown(expanded)}, which is longer than names of files may be ({_LONGEST_NAME} bytes)"
        problems.append(Problem("E-CFG-015", found, "write a shorter one", place))
    return expanded


def packaged(name: str) -> str:
    """A name as it is; `luthier:quickstart/base` as the path of what comes with Luthier, if that is there."""
    path = os.path.realpath(PACKAGE / name.removeprefix(PACKAGED)) if name.isprintable() else ""
    inside = path != str(PACKAGE) and Path(path).is_relative_to(PACKAGE)
    return path if name.startswith(PACKAGED) and inside and os.path.exists(path) else name  # noqa: PTH110


def _packaged(name: str, key: str, place: str, problems: list[Problem]) -> str:
    """Where something that comes with Luthier lies on this machine."""
    path = packaged(name)
    if path == name:
        found = f"{key} is {shown(name)}, but nothing of that name comes with luthier"
        fix = f"write {PACKAGED}quickstart/base, {PACKAGED}quickstart/rows/train.jsonl, or a path of your own"
        problems.append(Problem("E-CFG-015", found, fix, place))
    return path
