"""Each "Try it" of the concept pages, done with its own command lines: the numbers that its answer tells.

The lines are read from the page, so an exercise that is changed has no answer until it is measured again: what was run
is kept beside the numbers, and a test compares.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import luthier
from luthier.cli.request import parse
from luthier.events.read import read
from luthier.events.types import Architecture, Evaluated, Event, Log, Resumed
from measuring.runs import WORK

Numbers = dict[str, Any]
E = TypeVar("E", bound=Event)
PAGES = Path("guide/concepts")
RUNS = WORK / "tries"
BLOCK = re.compile(r"^## Try it\n.*?^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
ADAPTER = "final_model/adapter_model.safetensors"
KILLED_AFTER = 30
"""Steps: in the middle between two checkpoints."""
MIB = 1 << 20


def command_lines(page: str) -> list[str]:
    """Those of Luthier in the exercise of guide/concepts/PAGE.md; none where there is no exercise."""
    block = BLOCK.search((PAGES / f"{page}.md").read_text(encoding="utf-8"))
    return [line for line in (block[1] if block else "").splitlines() if line.startswith("luthier ")]


def exercise(page: str) -> Callable[[], Numbers]:
    """An experiment of guide/measure.py."""

    def measure() -> Numbers:
        lines = command_lines(page)
        return {"commands": lines, "threads": 1, **ANSWERS[page](lines)}

    return measure


def _words(line: str) -> list[str]:
    """The line with its runs in `RUNS`."""
    return [word.replace("checkpoints/", f"{RUNS}/") for word in shlex.split(line)[1:]]


def _start(line: str, *more: str) -> subprocess.Popen[bytes]:
    """One thread, so that a machine with more of them gets the same numbers."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "luthier", *_words(line), *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def _run(lines: list[str]) -> None:
    """Train as the lines say, each run afresh."""
    for line in lines:
        _forget(line)
        if _start(line).wait() != 0:
            raise SystemExit(f"failed: {line}")


def _forget(line: str) -> None:
    for word in _words(line):
        if word.startswith("output_dir="):
            shutil.rmtree(word.partition("=")[2], ignore_errors=True)


def _said(name: str, kind: type[E]) -> list[E]:
    return [event for event, _ in read(RUNS / name / "events.jsonl") if isinstance(event, kind)]


def _last_eval(name: str) -> float:
    return _said(name, Evaluated)[-1].eval_loss


def _compare(line: str) -> list[dict[str, Any]]:
    """What `luthier compare` found, a record for each run."""
    file = RUNS / "comparison.json"
    if _start(line, "--json", str(file)).wait() not in (0, 3):
        raise SystemExit(f"failed: {line}")
    comparisons: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["comparisons"]
    return comparisons


def _fine_tuning(lines: list[str]) -> Numbers:
    _run(lines[:1])
    (found,) = _compare(lines[1])
    overall = found["changes"][0]
    evaluated, logs = _said("fifty", Evaluated), _said("fifty", Log)
    return {
        "train_loss": logs[-1].loss,
        "first_eval_step": evaluated[0].step,
        "first_eval_loss": evaluated[0].eval_loss,
        "eval_loss": evaluated[-1].eval_loss,
        "tasks": overall["tuned"]["tasks"],
        "solved": 100 * overall["tuned"]["share"],
    }


def _loss(lines: list[str]) -> Numbers:
    _run(lines)
    evaluated = _said("by_heart", Evaluated)
    best = min(evaluated, key=lambda event: event.eval_loss)
    train = _said("by_heart", Log)[-1].loss
    return {"step": best.step, "lowest": best.eval_loss, "last": evaluated[-1].eval_loss, "train": train}


def _preferences(lines: list[str]) -> Numbers:
    _run(lines)
    log, evaluated = _said("pairs", Log)[-1], _said("pairs", Evaluated)[-1]
    assert log.reward_accuracy is not None and evaluated.reward_accuracy is not None
    return {
        "train": 100 * log.reward_accuracy,
        "held_out": 100 * evaluated.reward_accuracy,
        "loss": log.loss,
        "eval_loss": evaluated.eval_loss,
    }


def _evals(*names: str) -> Callable[[list[str]], Numbers]:
    def answer(lines: list[str]) -> Numbers:
        _run(lines)
        return {name: _last_eval(name) for name in names}

    return answer


def _lora(lines: list[str]) -> Numbers:
    _run(lines)
    numbers: Numbers = {}
    for name in ("r2", "r64"):
        numbers[f"{name}_eval"] = _last_eval(name)
        numbers[f"{name}_trained"] = _said(name, Architecture)[0].trainable_parameters
        numbers[f"{name}_mib"] = (RUNS / name / ADAPTER).stat().st_size / MIB
    return numbers


def _qlora(lines: list[str]) -> Numbers:
    planned, trained = lines[:3], lines[3:]
    numbers: Numbers = {}
    for name, line in zip(("plain", "kept", "at_each_use"), planned, strict=True):
        plan, _ = luthier.plan(*parse(_words(line)[1:]))
        assert plan.memory is not None
        mib = {part.name: 1024 * part.gib for part in plan.memory.parts}
        numbers |= {f"{name}_weights": mib["weights"], f"{name}_copies": mib.get("copies", 0.0)}
        numbers[name] = mib["weights"] + mib.get("copies", 0.0)
    _run(trained)
    return numbers | {"lora_eval": _last_eval("lora"), "qlora_eval": _last_eval("qlora")}


def _gradients(lines: list[str]) -> Numbers:
    _run(lines)
    numbers: Numbers = {}
    for name, limit in (("clipped", 0.1), ("free", 1.0)):
        norms = [log.grad_norm for log in _said(name, Log)]
        shortened = sum(norm > limit for norm in norms)
        numbers |= {f"{name}_eval": _last_eval(name), f"{name}_shortened": shortened, f"{name}_lines": len(norms)}
        numbers[f"{name}_norm"] = median(norms)
        numbers[f"{name}_twenty"] = next(log.loss for log in _said(name, Log) if log.step == 20)
    return numbers


def _checkpoints(lines: list[str]) -> Numbers:
    first, again, whole = lines
    _forget(first)
    process = _start(first)
    events = RUNS / "killed" / "events.jsonl"
    while process.poll() is None and not (events.is_file() and _last_step() >= KILLED_AFTER):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    killed = _last_step()
    if _start(again).wait() != 0:
        raise SystemExit(f"failed: {again}")
    _run([whole])
    resumed = _said("killed", Resumed)[0].step
    adapters = [(RUNS / name / ADAPTER).read_bytes() for name in ("killed", "never_killed")]
    return {"killed_after": killed, "resumed_from": resumed, "twice": killed - resumed, "bytes": len(adapters[0]),
            "different": sum(a != b for a, b in zip(*adapters, strict=True))}  # fmt: skip


def _last_step() -> int:
    return max((log.step for log in _said("killed", Log)), default=0)


def _masks(lines: list[str]) -> Numbers:
    _run(lines[:2])
    numbers: Numbers = {}
    for name, found in zip(("answers", "all_tokens"), _compare(lines[2]), strict=True):
        overall = found["changes"][0]["tuned"]
        numbers |= {f"{name}_solved": 100 * overall["share"], f"{name}_low": 100 * overall["low"]}
        numbers |= {f"{name}_high": 100 * overall["high"], f"{name}_eval": _last_eval(name), "tasks": overall["tasks"]}
    return numbers


def _packing(lines: list[str]) -> Numbers:
    _run(lines)
    packed, padded = _said("packed", Log), _said("padded", Log)
    return {
        "steps": len(packed),
        "difference": max(abs(a.loss - b.loss) for a, b in zip(packed, padded, strict=True)),
    }


ANSWERS: dict[str, Callable[[list[str]], Numbers]] = {
    "fine-tuning": _fine_tuning,
    "masks": _masks,
    "loss": _loss,
    "gradients": _gradients,
    "learning-rate": _evals("low", "right", "high"),
    "epoch-and-steps": _evals("sixteen", "thirty_two", "faster"),
    "lora": _lora,
    "qlora": _qlora,
    "packing": _packing,
    "checkpoints": _checkpoints,
    "preferences": _preferences,
}
EXPERIMENTS = {f"try_{page.replace('-', '_')}": exercise(page) for page in ANSWERS}
