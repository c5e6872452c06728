"""A disk that forgets: what may be on it when the power fails in the middle of a recorded list of changes.

    data of a file       durable once the file is fsynced
    entries of a folder  durable once the folder is fsynced (a rename within it is one change)

Whatever is not durable may be there or not, each change for itself: a crash leaves any subset of the changes that are
pending then. No common file system is as harsh, for they keep some order. A single write is whole, missing or, where
`torn` says so, half there.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Tree = dict[str, bytes | None]
"""Path -> content; None is a folder."""
ROOT = 0


@dataclass
class Change:
    """One change of a file or folder (`node`): entries (None: taken away), bytes at an offset, or the length."""

    node: int
    moment: int
    entries: tuple[tuple[str, int | None], ...] = ()
    data: bytes | None = None
    offset: int = 0
    length: int | None = None
    durable: float = float("inf")
    """The moment from which on it cannot be lost."""


class State:
    """Folders with their entries and files with their bytes, by number."""

    def __init__(self, folders: dict[int, dict[str, int]], files: dict[int, bytes]) -> None:
        self.folders, self.files = folders, files

    def copy(self) -> State:
        """Another one, which may be changed."""
        return State({node: dict(entries) for node, entries in self.folders.items()}, dict(self.files))

    def apply(self, change: Change, torn: bool = False) -> None:
        """Make a change."""
        for name, node in change.entries:
            if node is None:
                self.folders[change.node].pop(name, None)
            else:
                self.folders[change.node][name] = node
        if change.data is not None:
            data = change.data[: len(change.data) // 2] if torn else change.data
            old = self.files[change.node].ljust(change.offset, b"\0")
            self.files[change.node] = old[: change.offset] + data + old[change.offset + len(data) :]
        if change.length is not None:
            self.files[change.node] = self.files[change.node][: change.length].ljust(change.length, b"\0")

    def tree(self) -> Tree:
        """What can be reached from the root."""
        found: Tree = {}

        def walk(node: int, prefix: str) -> None:
            for name, child in self.folders[node].items():
                if child in self.files:
                    found[prefix + name] = self.files[child]
                else:
                    found[prefix + name] = None
                    walk(child, f"{prefix}{name}/")

        walk(ROOT, "")
        return found


class Disk:
    """The changes in their order, and when each became durable. A moment is a change or an fsync."""

    def __init__(self, before: Path) -> None:
        self.moment = 0
        self.changes: list[Change] = []
        self._nodes = itertools.count(ROOT)
        self.now = State({}, {})
        self._read(before)
        self._start = self.now.copy()

    def _read(self, path: Path) -> int:
        node = next(self._nodes)
        if path.is_dir():
            self.now.folders[node] = {}
            self.now.folders[node] = {child.name: self._read(child) for child in sorted(path.iterdir())}
        else:
            self.now.files[node] = path.read_bytes()
        return node

    def node(self, path: str) -> int:
        """What lies at a path now."""
        here = ROOT
        for part in Path(path).parts:
            here = self.now.folders[here][part]
        return here

    def make(self, path: str, folder: bool) -> int:
        """A new file or folder."""
        node = next(self._nodes)
        for state in (self.now, self._start):  # that it exists is nothing yet: no entry leads to it
            if folder:
                state.folders[node] = {}
            else:
                state.files[node] = b""
        self.enter(path, node)
        return node

    def enter(self, path: str, node: int | None) -> None:
        """An entry of a folder; None takes it away."""
        self.change(self.node(str(Path(path).parent)), entries=((Path(path).name, node),))

    def rename(self, old: str, new: str) -> None:
        """A rename within one folder."""
        parent = Path(old).parent
        assert Path(new).parent == parent, "a rename from one folder to another is not modelled"
        entries = ((Path(old).name, None), (Path(new).name, self.node(old)))
        self.change(self.node(str(parent)), entries=entries)

    def change(self, node: int, **what: object) -> None:
        """Any change."""
        self.moment += 1
        self.changes.append(Change(node, self.moment, **what))  # type: ignore[arg-type]
        self.now.apply(self.changes[-1])

    def fsync(self, node: int) -> None:
        """What was done to this file, or to the entries of this folder, is durable."""
        self.moment += 1
        for change in self.changes:
            if change.node == node:
                change.durable = min(change.durable, self.moment)

    def crashes(self, moment: int, rng: random.Random, most: int) -> tuple[bool, Iterator[Tree]]:
        """What may be on the disk after a crash just after a moment: all of it when that is at most `most`.

        Else: all and none of the pending changes, all but one, only one, every beginning, and random subsets, `most` in
        all, some of them with a torn write. The first result says whether it is everything.
        """
        done = [change for change in self.changes if change.moment <= moment]
        base = self._start.copy()
        for change in done:
            if change.durable <= moment:
                base.apply(change)
        pending = [change for change in done if change.durable > moment]
        if 2 ** len(pending) <= most:
            subsets: Iterator[list[Change]] = (
                [change for bit, change in enumerate(pending) if mask >> bit & 1] for mask in range(2 ** len(pending))
            )
            return True, (_crashed(base, kept, None) for kept in subsets)
        return False, _sampled(base, pending, rng, most)


def _sampled(base: State, pending: list[Change], rng: random.Random, most: int) -> Iterator[Tree]:
    count = len(pending)
    chosen = [pending, []]
    for at in range(count):
        chosen += [pending[:at] + pending[at + 1 :], [pending[at]], pending[:at]]
    while len(chosen) < most:
        share = rng.random()
        chosen.append([change for change in pending if rng.random() < share])
    for kept in chosen[:most]:
        writes = [change for change in kept if change.data is not None]
        yield _crashed(base, kept, rng.choice(writes) if writes and rng.random() < 0.3 else None)


def _crashed(base: State, kept: list[Change], torn: Change | None) -> Tree:
    state = base.copy()
    for change in kept:
        state.apply(change, torn=change is torn)
    return state.tree()
