"""The quickstart, told once: its panel in the middle of the training, its loss, its scores and one answer."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import luthier
from luthier.config.load import load
from luthier.events.read import read
from luthier.events.types import Evaluated, Event, Log, Notice
from luthier.monitor.state import RunState, fold
from luthier.quickstart.story import Examined, Result, tell
from measuring.drawing import AMBER, BLUE, picture, save_panel
from measuring.runs import WORK, of

PACKAGE = Path(luthier.__file__).parent
SHOWN_STEP = 400
SHARES = (1, 5, 25, 50, 100)
"""Percent of the run at which its course is told."""
Curve = list[tuple[int, float]]


def quickstart() -> dict[str, Any]:
    folder = WORK / "quickstart"
    shutil.rmtree(folder, ignore_errors=True)
    told = list(tell(load("configs/quickstart.yaml", [f"training.output_dir={folder}"])))
    events = [one for one in told if isinstance(one, Event)]
    logs, evaluated = of(events, Log), of(events, Evaluated)
    with picture("quickstart_loss") as (_, (axes,)):
        axes.plot([e.step for e in logs], [e.loss for e in logs], color=BLUE, label="training")
        axes.plot([e.step for e in evaluated], [e.eval_loss for e in evaluated], "o-", color=AMBER, label="held out")
        axes.set(xlabel="optimizer step", ylabel="loss (nats a token)", ylim=(0, None))
        axes.legend()
    draw()
    (result,) = [one for one in told if isinstance(one, Result)]
    base, tuned = [one for one in told if isinstance(one, Examined)]
    solved = [
        task.split == "parameter" and o.verdict.passed
        for task, o in zip(tuned.tasks, tuned.scores.outcomes, strict=True)
    ]
    shown = solved.index(True)
    numbers = result.as_dict()
    return {
        "minutes": numbers["seconds"] / 60,
        "memory_gib": numbers["peak_memory_gib"],
        "steps": numbers["steps"],
        "tasks": len(tuned.tasks),
        "first_loss": logs[0].loss,
        "last_loss": logs[-1].loss,
        "eval_loss": evaluated[-1].eval_loss,
        **course([(e.step, e.loss) for e in logs], [(e.step, e.eval_loss) for e in evaluated], numbers["steps"]),
        "instruction": tuned.tasks[shown].instruction,
        "before": "\n".join(base.scores.outcomes[shown].answer.split("\n")[:6]),
        "after": tuned.scores.outcomes[shown].answer,
        **{f"base_{split}": share * 100 for split, share in numbers["base"].items()},
        **{f"tuned_{split}": share * 100 for split, share in numbers["tuned"].items()},
    }


def course(losses: Curve, eval_losses: Curve, steps: int) -> dict[str, float]:
    """At each share of the run: the nearest log line, and the newest evaluation at that time, if there was one."""
    numbers: dict[str, float] = {}
    for share in SHARES:
        at = steps * share / 100
        numbers[f"step_{share}"], numbers[f"loss_{share}"] = min(losses, key=lambda point: abs(point[0] - at))
        if known := [point for point in eval_losses if point[0] <= at]:
            numbers[f"eval_step_{share}"], numbers[f"eval_{share}"] = known[-1]
    return numbers


def draw() -> None:
    """The panel of the run at `SHOWN_STEP`; nothing is trained."""
    state, moment = RunState(), 0.0
    for event, about in read(WORK / "quickstart" / "events.jsonl"):
        if (getattr(event, "step", None) or 0) > SHOWN_STEP:
            break
        moment = about["time"]
        if isinstance(event, Notice):  # without the folder of this machine
            event = replace(event, text=event.text.replace(f"{PACKAGE}/", "luthier:"))
        state = fold(state, event, moment)
    save_panel("quickstart", state, moment, "luthier quickstart")
