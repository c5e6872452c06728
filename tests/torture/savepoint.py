"""A real run, held just before it writes something, from where any number of forks go on: each does the same save.

holder:  train ... | window opens          (torch runs here, on one thread, so that it can be forked)
fork 1:            | save ... | window closes
fork 2:            | save ... | window closes
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.torture.outcome import COUNTS, workshop
from tests.torture.runs import difference, forked, straight, tail, train, variant

LAST = {"lora": 8, "full": 6}
SCENES = (
    ("lora", "rotation"),
    ("lora", "final"),
    ("lora", "first"),
    ("lora", "final again"),
    ("full", "rotation"),
    ("full", "final"),
)
"""What is written: a save that lets an older one be deleted, final_model, the first save, final_model once more."""


@dataclass
class Held:
    """A run before its window: `events` goes on with it, `folder` is as `before`, a copy."""

    name: str
    scene: str
    folder: Path
    before: Path
    events: Iterator[Any]

    def opens(self, event: Any) -> bool:
        """Whether the window begins after this event."""
        step = getattr(event, "step", None)
        return {
            "first": event.kind == "log" and step == 1,
            "rotation": event.kind == "log" and step == 6,
            "final": event.kind == "checkpoint_saved" and step == LAST[self.name],
            "final again": event.kind == "resumed",
        }[self.scene]

    def closes(self, event: Any) -> bool:
        """Whether the window ends with this event."""
        return event.kind == ("run_finished" if self.scene.startswith("final") else "checkpoint_saved")

    def through(self) -> Any:
        """Go through the window; its last event, or the run's, when the window's never came."""
        event = None
        for event in self.events:
            if self.closes(event):
                break
        return event

    def put_back(self) -> None:
        """Undo what a fork did to the folder; files that the run holds open stay the same files."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif (self.before / path.name).is_file():
                path.write_bytes((self.before / path.name).read_bytes())
        shutil.copytree(self.before, self.folder, dirs_exist_ok=True)


def held(scene: tuple[str, str], place: Path, work: Callable[[Held], str]) -> str:
    """Do `work` with a run that is held before its window; its text, or what went wrong on the way there."""
    straight(scene[0])
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)

    def hold() -> None:
        COUNTS.clear()
        wrong = work(_stand(scene, place))
        (place / "said").write_text(json.dumps([wrong, COUNTS]))

    code = forked(hold, place / "log", longest=3600)
    if code:
        return f"scene {scene}: ended with {code}:\n{tail(place / 'log')}"
    wrong, counts = json.loads((place / "said").read_text())
    COUNTS.update(counts)
    shutil.rmtree(place)
    return f"scene {scene}: {wrong}" if wrong else ""


def _stand(scene: tuple[str, str], place: Path) -> Held:
    from luthier import api

    name, what = scene
    values = variant(name, place / "run")
    values["data"]["dataloader_num_workers"] = 0
    if what == "final again":
        train(values)
    run = Held(name, what, place / "run", place / "before", api.train(values, resume="auto"))
    for event in run.events:
        if run.opens(event):
            shutil.copytree(run.folder, run.before)
            return run
    raise AssertionError(f"the window of {scene} never opened")


def place(suite: str, number: int) -> Path:
    """A folder of this process for one trial."""
    return workshop() / f"{suite}-{number}-{os.getpid()}"


def resumed(held_run: Held, folder: Path, log: Path, holes: bool) -> str:
    """Finish a copy of the run; how that differs from the straight run (`holes`: its log may have some)."""
    values = variant(held_run.name, folder)
    code = forked(functools.partial(train, values, resume="auto"), log, strict=False)
    return f"the resume ended with {code}:\n{tail(log)}" if code else difference(held_run.name, folder, holes)
