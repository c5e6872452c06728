"""Power cuts: every moment of a real save, and what the disk may hold then, are rebuilt and resumed from.

strace records the system calls of one save. After each of them the disk may hold what was fsynced and any subset of the
rest (`crash`). In each such state

- the newest whole checkpoint is found, its bytes are those of the save before or of this one, and no other is taken;
- once an event has announced the checkpoint (or the end of the run), it is this one, and final_model is whole;
- a final_model that can be seen is whole.

A trial takes one scene. The second round goes through all subsets at each moment that has at most 4,096, the others at
each that has at most 128; at other moments they are drawn.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.crash import Disk, Tree
from tests.torture.outcome import COUNTS, dice, memory
from tests.torture.recording import OPTIONS, Replay, calls
from tests.torture.runs import tail
from tests.torture.savepoint import SCENES, Held, held, place
from tests.torture.strace import traced, why_not

__all__ = ["DEFAULT", "FAST", "NAME", "trial", "why_not"]

NAME = "power"
DEFAULT = 60
FAST = 2
MOST, MOST_IN_THE_SECOND_ROUND = 128, 4096
"""States at each moment."""


def trial(number: int, seed: int) -> str:
    """All moments of one scene."""
    return cut(number, seed, lambda: None)


def cut(number: int, seed: int, plant: Callable[[], None]) -> str:
    """The trial, with something planted into the code that saves."""
    rng = dice(NAME, seed, number)
    most = MOST_IN_THE_SECOND_ROUND if number // len(SCENES) == 1 else MOST

    def work(run: Held) -> str:
        plant()
        record = run.folder.with_name("record")
        code = traced(lambda: ended(run), run.folder.with_name("save.log"), record, OPTIONS)
        if code:
            return f"the save ended with {code}:\n{tail(run.folder.with_name('save.log'))}"
        return _every_moment(run, record, rng, most)

    return held(SCENES[number % len(SCENES)], place(NAME, number), work)


def ended(run: Held) -> None:
    """The save."""
    run.through()


def _every_moment(run: Held, record: Path, rng: random.Random, most: int) -> str:
    """Rebuild and judge what may be on the disk; the first thing that is wrong."""
    disk, judge = Disk(run.before), Judge(run)
    announced = float("inf")
    recorded = Replay(run.folder, disk)
    for call in calls(record):
        recorded.make(call)
        if call.name == "write" and judge.announcement in call.strings[0]:
            announced = disk.moment
    if disk.now.tree() != read_tree(run.folder):
        return "what strace recorded does not lead to what is on the disk"
    seen = set()
    for moment in range(disk.moment + 1):
        everything, states = disk.crashes(moment, rng, most)
        COUNTS["moments"] += 1
        COUNTS["moments_with_every_subset"] += everything
        for tree in states:
            COUNTS["states"] += 1
            key = (frozenset(tree.items()), moment >= announced)
            if key in seen:
                continue
            seen.add(key)
            COUNTS["different_states"] += 1
            if wrong := judge(tree, moment >= announced):
                return f"after change {moment} of {disk.moment}: {wrong}"
    return ""


class Judge:
    """Says what is wrong with a state of the disk."""

    def __init__(self, run: Held) -> None:
        self._before, self._after = read_tree(run.before), read_tree(run.folder)
        self._final = run.scene.startswith("final")
        self.announcement = b'"event":"run_finished"' if self._final else b'"event":"checkpoint_saved"'
        self._pool = memory() / f"pool-{os.getpid()}"
        self._spot = memory() / f"spot-{os.getpid()}"
        self._pool.mkdir(parents=True)
        self._blobs: dict[bytes, Path] = {}

    def __call__(self, tree: Tree, announced: bool) -> str:
        """Empty when a resume from this state is right."""
        from luthier.errors import LuthierError
        from luthier.training.checkpoint import find_checkpoint
        from luthier.training.commit import verify
        from luthier.training.folder import open_folder

        self._write(tree)
        try:
            with open_folder(self._spot, resume=True, overwrite=False):
                newest_whole = find_checkpoint(self._spot, "auto")
            final = self._spot / "final_model"
            broken = verify(final) if final.is_dir() else "it is missing"
        except LuthierError as error:
            return f"refused: {error}"
        if wrong := self._checkpoint(tree, newest_whole, announced and not self._final):
            return wrong
        if final.is_dir() or (announced and self._final):
            # what was about to be replaced is put back
            found = _below(tree, "final_model") or _below(tree, "final_model", ".replaced-final_model-")
            before, after = (_below(known, "final_model") for known in (self._before, self._after))
            if broken or found not in (before, after) or (announced and found != after):
                return f"final_model is not whole: {broken or 'other bytes'}"
        return ""

    def _checkpoint(self, tree: Tree, found: Any, announced: bool) -> str:
        oldest = newest(self._after if announced else self._before)
        step = found.step if found else 0
        if step < oldest:
            return f"step {step} is found, step {oldest} is lost"
        if found and _below(tree, found.path.name) not in (
            _below(self._before, found.path.name),
            _below(self._after, found.path.name),
        ):
            return f"{found.path.name} is taken, and its bytes were never saved"
        return ""

    def _write(self, tree: Tree) -> None:
        """Put the tree on a disk in memory; files are links to one copy of each content."""
        shutil.rmtree(self._spot, ignore_errors=True)
        self._spot.mkdir()
        for name, content in tree.items():
            path = self._spot / name
            if content is None:
                path.mkdir()
            elif name == ".lock":  # it is written to
                path.write_bytes(content)
            else:
                if content not in self._blobs:
                    self._blobs[content] = self._pool / str(len(self._blobs))
                    self._blobs[content].write_bytes(content)
                os.link(self._blobs[content], path)


def read_tree(folder: Path) -> Tree:
    """All that is in a folder."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in paths}


def newest(tree: Tree) -> int:
    """The newest checkpoint; 0 when there is none."""
    found = [name.removeprefix("checkpoint-") for name, content in tree.items() if content is None]
    return max((int(name) for name in found if name.isdigit()), default=0)


def _below(tree: Tree, name: str, moved: str = "") -> dict[str, bytes | None]:
    """What lies in a folder; `moved`: how the folder begins that it was moved to."""
    paths = {path: path.partition("/")[0] for path in tree if "/" in path}
    inside = {path: top for path, top in paths.items() if (top.startswith(moved) if moved else top == name)}
    return {f"{name}{path.removeprefix(top)}": tree[path] for path, top in inside.items()}
