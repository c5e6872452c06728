"""Damage to committed checkpoints: none is ever taken for whole, and the one before it is found instead.

The last checkpoints of a real run lie in memory. Each trial damages the newest in one random way, asks for the newest
whole one, and undoes the damage. Damage that leaves every byte as it was does not count.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.torture.outcome import COUNTS, dice, memory
from tests.torture.runs import straight

NAME = "corruption"
DEFAULT = 100_000
FAST = 500


def trial(number: int, seed: int) -> str:
    """One damage."""
    from luthier.training.checkpoint import find_checkpoint

    rng = dice(NAME, seed, number)
    folder = copy(rng.choice(("lora", "full")))
    older, newest = checkpoints(folder)
    whole = contents(newest)
    damage = rng.choice(DAMAGES)
    what = damage(rng, newest, older)
    try:
        changed = contents(newest) != whole
        found = find_checkpoint(folder, "auto")
        aside = list(folder.glob("damaged-checkpoint-*"))
    finally:
        for path in folder.glob("damaged-checkpoint-*"):
            path.rename(newest)
        for path in newest.iterdir():
            if path.name not in whole or path.is_symlink():
                path.unlink()
        for name, content in whole.items():
            if not (newest / name).is_file() or (newest / name).read_bytes() != content:
                (newest / name).write_bytes(content)
    COUNTS["damages_accepted"] += changed and found is not None and found.path == newest
    COUNTS["not_damaged_after_all"] += not changed
    expected = older if changed else newest
    taken = found.path.name if found else "nothing"
    if changed and not aside:
        return f"{damage.__name__} ({what}): the damaged one was not set aside"
    return "" if taken == expected.name else f"{damage.__name__} ({what}): {taken} is taken, not {expected.name}"


@functools.cache
def copy(name: str) -> Path:
    """This process's own copy of a finished run, with its two newest checkpoints."""
    folder = memory() / f"damaged-{os.getpid()}-{name}"
    for path in sorted(straight(name)[0].glob("checkpoint-*"), key=_step)[-2:]:
        shutil.copytree(path, folder / path.name)
    return folder


def checkpoints(folder: Path) -> tuple[Path, Path]:
    """The older and the newer one."""
    older, newest = sorted(folder.glob("checkpoint-*"), key=_step)
    return older, newest


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of every file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def truncated(rng: random.Random, newest: Path, older: Path) -> str:
    path = _victim(rng, newest)
    os.truncate(path, rng.randrange(path.stat().st_size))
    return path.name


def emptied(rng: random.Random, newest: Path, older: Path) -> str:
    path = _victim(rng, newest)
    os.truncate(path, 0)
    return path.name


def flipped(rng: random.Random, newest: Path, older: Path) -> str:
    path = _victim(rng, newest)
    at, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
    return f"{path.name}, bit {bit} of byte {at}"


def zeroed(rng: random.Random, newest: Path, older: Path) -> str:
    path = _victim(rng, newest)
    size = path.stat().st_size
    at, length = rng.randrange(size), rng.choice([1, 16, 512, 4096])
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(min(length, size - at)))
    return f"{path.name}, {length} bytes at {at}"


def zeroed_to_the_end(rng: random.Random, newest: Path, older: Path) -> str:
    path = _victim(rng, newest)
    size = path.stat().st_size
    at = rng.randrange(size)
    os.truncate(path, at)
    os.truncate(path, size)
    return f"{path.name} from {at}"


def appended(rng: random.Random, newest: Path, older: Path) -> str:
    path = _victim(rng, newest)
    with path.open("ab") as file:
        file.write(rng.choice([b"\0", b" ", b"\n", rng.randbytes(1), rng.randbytes(64)]))
    return path.name


def garbage(rng: random.Random, newest: Path, older: Path) -> str:
    path = _victim(rng, newest)
    path.write_bytes(rng.randbytes(rng.choice([1, 8, 100, path.stat().st_size])))
    return path.name


def garbage_in_the_middle(rng: random.Random, newest: Path, older: Path) -> str:
    path = _victim(rng, newest)
    size = path.stat().st_size
    at = rng.randrange(size)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(rng.randbytes(min(rng.choice([2, 8, 512]), size - at)))
    return f"{path.name} at {at}"


def missing(rng: random.Random, newest: Path, older: Path) -> str:
    path = _victim(rng, newest)
    path.unlink()
    return path.name


def two_swapped(rng: random.Random, newest: Path, older: Path) -> str:
    one, other = rng.sample(sorted(newest.iterdir()), 2)
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)
    return f"{one.name}, {other.name}"


def two_blocks_swapped(rng: random.Random, newest: Path, older: Path) -> str:
    path = _victim(rng, newest)
    data = bytearray(path.read_bytes())
    length = min(512, len(data) // 2)
    a, b = rng.randrange(len(data) - length + 1), rng.randrange(len(data) - length + 1)
    if abs(a - b) >= length:
        data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]
    path.write_bytes(data)
    return f"{path.name} at {a} and {b}"


def a_file_of_the_older_one(rng: random.Random, newest: Path, older: Path) -> str:
    path = _victim(rng, newest)
    path.write_bytes((older / path.name).read_bytes())
    return path.name


def all_but_the_manifest_of_the_older_one(rng: random.Random, newest: Path, older: Path) -> str:
    for path in newest.iterdir():
        if path.name != "manifest.json":
            path.write_bytes((older / path.name).read_bytes())
    return "all"


def renamed(rng: random.Random, newest: Path, older: Path) -> str:
    path = _victim(rng, newest)
    path.rename(path.with_name(f"{path.name}.old"))
    return path.name


def a_hash_rewritten(rng: random.Random, newest: Path, older: Path) -> str:
    """Data and its hash in the manifest changed alike; only the seal can tell."""
    import hashlib
    import json

    path = rng.choice([path for path in sorted(newest.iterdir()) if path.name != "manifest.json"])
    flipped_at = rng.randrange(path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[flipped_at] ^= 1
    path.write_bytes(data)
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"][path.name] = hashlib.sha256(data).hexdigest()
    (newest / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))
    return path.name


def a_file_forgotten_by_the_manifest(rng: random.Random, newest: Path, older: Path) -> str:
    """Gone from the folder and from the manifest; only the seal can tell."""
    import json

    manifest = json.loads((newest / "manifest.json").read_text())
    name = rng.choice(sorted(manifest["files"]))
    del manifest["files"][name]
    (newest / name).unlink()
    (newest / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))
    return name


def manifest_damaged(rng: random.Random, newest: Path, older: Path) -> str:
    path = newest / "manifest.json"
    text = path.read_text()
    other = rng.choice([text[:-1], "{}", "[]", "null", "", text.replace("files", "file"), text.replace(" ", ""),
                        text.upper(), text + text, text.replace("a", "b", 1), "[" * 100_000])  # fmt: skip
    path.write_text(other)
    return f"{other[:20]!r}"


def a_duplicate(rng: random.Random, newest: Path, older: Path) -> str:
    one, other = rng.sample(sorted(newest.iterdir()), 2)
    other.write_bytes(one.read_bytes())
    return f"{one.name} over {other.name}"


DAMAGES: tuple[Callable[[random.Random, Path, Path], str], ...] = (
    truncated,
    emptied,
    flipped,
    zeroed,
    zeroed_to_the_end,
    appended,
    garbage,
    garbage_in_the_middle,
    missing,
    two_swapped,
    two_blocks_swapped,
    a_file_of_the_older_one,
    all_but_the_manifest_of_the_older_one,
    renamed,
    a_hash_rewritten,
    a_file_forgotten_by_the_manifest,
    manifest_damaged,
    a_duplicate,
)


def _victim(rng: random.Random, folder: Path) -> Path:
    """Any file; an empty one has nothing to damage."""
    return rng.choice([path for path in sorted(folder.iterdir()) if path.stat().st_size])
