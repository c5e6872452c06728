"""Secrets in text, replaced by a name before the text leaves the process.

    known    values of environment variables that are named like secrets, the hub's token, passwords in .netrc
    shaped   hf_..., sk-..., ghp_..., AKIA..., xoxb-..., private keys
    placed   https://user:password@host, ?token=..., Authorization: ..., a W&B key beside its name

`hide` stands where text leaves: in every `Problem`, before every sink, in plan.yaml, the model card, library.log,
error.log and --json files. A config that holds a secret is refused (`holds_secret`), so that none gets further.

Not covered: a secret that is in none of these places and has no such shape, encoded ones (base64), and the rows and
weights of a dataset or model, which are the user's own files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

SHORTEST = 8
"""Shorter values are words and switches; to blank them out would make any text unreadable."""
_NAMED = re.compile(r"(?i)TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|PASSPHRASE|(?:KEY|AUTH|AUTHORIZATION|CREDENTIAL)S?$")
_SURELY = re.compile(r"(?i)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE)$")
_NETRC = re.compile(r"\b(?:password|account)\s+(\S+)")
SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|sk-(?:[A-Za-z0-9]{24,}|(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{20,})|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}|AKIA[A-Z0-9]{16}|wandb_v1_\w{16,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_USER_IN_URL = re.compile(r"(?<=://)[^/\s@\"'<>]+(?=@)")
_PLACES = (
    re.compile(r"(?i)(?<=[?&])((?:[\w-]*(?:token|key|secret|password|signature)|sig)=)[^&\s\"'<>]{6,}"),
    re.compile(r"(?i)(\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|token)\s+)?)[^\s\"'<>]{8,}"),
    re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{16,}"),
    re.compile(r"(?i)((?:wandb|api[_-]?key)[^\n]{0,40}?)\b[0-9a-f]{40}\b"),
)


def hide(text: str) -> str:
    """`text` with every secret in it replaced by a name in angle brackets: `<HF_TOKEN>`, `<secret>`."""
    return text if len(text) < SHORTEST else hider()(text)


def hide_in(value: Any, hidden: Callable[[str], str] | None = None) -> Any:
    """The same for every text in dicts, lists and tuples (which become lists); other values stay as they are."""
    hidden = hidden or hider()
    if isinstance(value, str):
        return hidden(value)
    if isinstance(value, Mapping):
        return {hide_in(key, hidden): hide_in(item, hidden) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide_in(item, hidden) for item in value]
    return value


def hider() -> Callable[[str], str]:
    """`hide` with the secrets that are known now: for many texts at once."""
    known = _known()

    def hidden(text: str) -> str:
        if len(text) < SHORTEST:
            return text
        if known:
            text = known[0].sub(lambda found: f"<{known[1][found[0]]}>", text)
        text = _USER_IN_URL.sub("<credentials>", SHAPES.sub("<secret>", text))
        for place in _PLACES:
            text = place.sub(r"\1<secret>", text)
        return text

    return hidden


def holds_secret(text: str) -> bool:
    """Whether a text has no place in a config: a known secret, the shape of one, or a password in a URL."""
    known = _known()
    return bool(SHAPES.search(text) or _USER_IN_URL.search(text) or (known and known[0].search(text)))


def _known() -> tuple[re.Pattern[str], dict[str, str]] | None:
    files = tuple((path, _changed_at(path)) for path in _files())
    return _compiled(frozenset(os.environ.items()), files)


@lru_cache(maxsize=4)
def _compiled(
    environment: frozenset[tuple[str, str]], files: tuple[tuple[Path, int], ...]
) -> tuple[re.Pattern[str], dict[str, str]] | None:
    """A pattern of all known values, the longest first, and the name of each; None when there are none."""
    names: dict[str, str] = {}
    for name, value in sorted(environment):
        if _is_secret(name, value.strip()):
            names |= dict.fromkeys(_spellings(value.strip()), name)
    for path, changed_at in files:
        text = _text(path) if changed_at else ""
        values = [text.strip()] if path.name == "token" else [value.strip("\"'") for value in _NETRC.findall(text)]
        label = "hub token" if path.name == "token" else "netrc password"
        for value in values:
            names |= dict.fromkeys(_spellings(value), label) if len(value) >= SHORTEST else {}
    if not names:
        return None
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))), names


def _is_secret(name: str, value: str) -> bool:
    """Whether a variable holds a secret: its name says so, and its value is no path, and no word unless surely one."""
    if not _NAMED.search(name) or len(value) < SHORTEST:
        return False
    if (value.isalpha() or value.isdigit()) and not _SURELY.search(name):
        return False
    return not _is_path(value)


def _is_path(value: str) -> bool:
    try:
        return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _spellings(value: str) -> set[str]:
    """A value as it is, and as it stands in a URL, a Python literal and a JSON text."""
    return {value, quote(value, safe=""), repr(value)[1:-1], json.dumps(value)[1:-1]}


def _files() -> tuple[Path, ...]:
    """Where the hub's token and passwords of hosts lie."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (pathlib raises where there is no home)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    netrc = os.environ.get("NETRC")
    return (
        Path(os.environ.get("HF_TOKEN_PATH") or hub / "token"),
        *((Path(netrc),) if netrc else (home / ".netrc", home / "_netrc")),
    )


def _changed_at(path: Path) -> int:
    """Nanoseconds; 0 when there is no such file."""
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
