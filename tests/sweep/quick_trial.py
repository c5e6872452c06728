"""Speaks as `luthier.sweep.trial` does and trains nothing: four evaluations, lowest for a learning rate of 1e-3.

It has no checkpoints.

r: 13    fails                      r: 14    is a wrong request       r: 15        dies by SIGKILL after an evaluation
r: 17    waits for a second trial   r: 20    waits to be stopped      r: 18, 19    stops unasked, twice or always
r: 21    is no better at its last evaluation
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import yaml

from luthier.events.sinks.jsonl import JsonlSink
from luthier.events.types import Evaluated, RunFinished, RunStarted


def say(**content):
    print(json.dumps(content), flush=True)


def read(path, changes):
    """What the config says, and above it what `section.key=value` does, by the keys alone.

    The first trial of a sweep sees that they are a config; read so, every trial would take three times as long.
    """
    sections = yaml.load(Path(path).read_text("utf-8"), yaml.CSafeLoader)
    asked = {key: value for section in sections.values() for key, value in section.items()}
    for change in changes:
        name, _, value = change.partition("=")
        asked[name.rpartition(".")[2]] = yaml.load(value, yaml.CSafeLoader)
    if Path(asked["output_dir"]).name == "trial-000":
        from luthier.config.load import load

        load(path, changes)
    return asked


def main(path, *words):
    changes = [word for word in words if "=" in word]
    if "--plan" in words:
        return say(total_steps=1200)
    asked = read(path, changes)
    rank = asked.get("r", 16)
    if rank in (13, 14):
        problem = f"E-RUN-001  learning_rate: rank {rank} is unlucky\n  why   it is"
        say(problem=problem, exit_code=rank - 12)
        sys.exit(rank - 12)
    folder = Path(asked["output_dir"])
    folder.mkdir(exist_ok=True)
    if rank == 20:
        say(started=40)
        say(step=1)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        say(step=2)
        while True:
            signal.pause()
    while rank == 17 and len(list(folder.parent.glob("trial-???"))) < 2:
        time.sleep(0.01)
    attempt = len(list(folder.glob("stopped-*")))
    if rank == 19 or (rank == 18 and attempt < 2):
        (folder / f"stopped-{attempt}").touch()
        sys.exit(75)
    sink = JsonlSink(folder / "events.jsonl")
    sink.write(RunStarted(asked.get("run_name") or "run", 40, 0, 1.0, {}))
    say(started=40)
    losses = []
    for step in (10, 20, 30, 40):
        learned = min(step, 30) if rank == 21 else step
        loss = abs(math.log10(float(asked.get("learning_rate", 2e-4))) + 3) + 1 / rank + 10 / learned
        sink.write(Evaluated(step, step / 40, loss, 10, 1.0, False))
        losses.append(loss)
        if rank == 15:
            os.kill(os.getpid(), signal.SIGKILL)
        say(step=step, loss=loss)
        say(evaluated=step, losses=losses)
        if sys.stdin.readline().strip() != "go":
            sink.write(RunFinished("stopped", step, 1.0, 1.0, 1.0, 1, 1.0, ""))
            sys.exit(75)
    sink.write(RunFinished("done", 40, 1.0, 1.0, 1.0, 1, 1.0, ""))
    say(finished="done")


if __name__ == "__main__":
    main(*sys.argv[1:])
