"""Runs of all systems in turns, and what they say together.

Each run is a fresh process, so that no system warms another's caches or fills its memory, and the systems take turns,
so that a machine that slows down slows all of them. The first steps of a run are left out of its rate. Speed that
changes the result does not count: every run's losses are compared, step by step, with Luthier's; in 16 bits, where no
two programs round alike, with those of the same steps in float32.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from luthier.bench.arms import ARMS, REFERENCE
from luthier.bench.turn import VARIABLE
from luthier.errors import Problem, RunError

LOSS_TOLERANCE = {"sft": {"float32": 1e-3, "bfloat16": 5e-3}, "dpo": {"float32": 1e-3, "bfloat16": 5e-2}}
"""Nats, at every step, by objective and the format that is computed in. In 16 bits the first loss, before anything was
trained, is off by a thousandth already; a margin of `dpo` adds up what is off in all tokens of two answers."""
_SHARING = ("luthier", "luthier-6gb", "luthier-3gb", "luthier-torch", "luthier-fp8")
"""Arms that compute once what rows share at their beginning, where the device's attention can."""


@dataclass(frozen=True)
class Request:
    """What to compare.

    Attributes:
        overrides: `key=value` strings of the run; the base model and the rows are among them.
        base: Folder of the base model.
        arms: Names out of `ARMS`; the first is the one that others are compared with.
        repeats: Runs of each.
        warm_up: Steps at the start of a run that are not timed.
    """

    overrides: tuple[str, ...]
    base: str
    arms: tuple[str, ...]
    repeats: int
    warm_up: int


@dataclass
class Row:
    """One system in one lane; medians over its runs."""

    system: str
    lane: str
    tokens_per_second: float
    trained_tokens_per_second: float
    wall_seconds: float
    peak_memory_gib: float
    share_of_limit: float
    losses: list[float]
    largest_loss_difference: float
    all_tokens_per_second: list[float] = field(default_factory=list)
    all_wall_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """All rows, and what they were measured on and with."""

    setting: dict[str, Any]
    rows: tuple[Row, ...]

    @property
    def equal(self) -> bool:
        """Whether every system had the same loss at every step."""
        return all(row.largest_loss_difference <= self.tolerance for row in self.rows)

    @property
    def tolerance(self) -> float:
        """How far losses may lie apart."""
        return LOSS_TOLERANCE[self.setting["objective"]][self.setting["dtype"]]


def compare(request: Request, folder: Path, say: Callable[[str], None]) -> Comparison:
    """Run everything, on the CPU, whatever else is there.

    Args:
        request: What to compare.
        folder: An empty folder to work in.
        say: Told what is being run.

    Raises:
        RunError: E-RUN-006 when a run fails, or takes a device that cannot be hidden.
    """
    content = {"overrides": list(request.overrides), "base": request.base}
    (folder / "request.json").write_text(json.dumps(content), encoding="utf-8")
    say("preparing rows and adapter; measuring how fast this machine multiplies")
    facts, _ = run_arm("prepare", folder, hide_gpus=True)
    if facts["computed_on"] != "cpu":
        found = f"{facts['computed_on']} cannot be hidden from Luthier, which would not compute on the CPU"
        raise RunError(Problem("E-RUN-006", found, "measure on a machine without it"))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in request.arms}
    for repeat in range(request.repeats):
        for name in request.arms:
            say(f"run {repeat + 1} of {request.repeats}: {label(name)}")
            result, seconds = run_arm(name, folder, hide_gpus=True)
            runs[name].append(result | {"wall_seconds": seconds})
    compared_with = request.arms[0] if facts["dtype"] == "float32" else REFERENCE
    if compared_with not in runs:
        say("the same steps in float32, for the losses")
        runs[compared_with] = [run_arm(compared_with, folder, hide_gpus=True)[0]]
    reference = runs[compared_with][0]["losses"]
    rows = tuple(row(name, runs[name], facts, request.warm_up, reference) for name in request.arms)
    setting = {
        "command": [key for key in request.overrides if str(folder) not in key],  # what lies there is made each time
        "repeats": request.repeats,
        "warm_up_steps": request.warm_up,
        "steps": len(facts["tokens"]),
        "tokens_per_step": statistics.mean(facts["tokens"]),
        "trained_tokens_per_step": statistics.mean(facts["trained_tokens"]),
        "losses_compared_with": label(compared_with),
        "reference_losses": reference,
        "objective": facts["training"]["objective"],
        **{key: facts[key] for key in ("dtype", "plan", "limit_flops", "surroundings")},
        "peers": {name: version(name) for name in ("peft", "bitsandbytes", *_systems(request.arms))},
    }
    return Comparison(setting, rows)


def _systems(arms: Sequence[str]) -> list[str]:
    """The peers among them."""
    return sorted({ARMS[name][0] for name in arms} - {"luthier"})


def label(name: str) -> str:
    """`trl (tuned)`."""
    if name not in ARMS:
        return name
    system, lane, _ = ARMS[name]
    return f"{system} ({lane})"


def needed_work(facts: dict[str, Any], step: int, *, shared: bool) -> float:
    """Operations that step `step` cannot do without: no padding, no recomputing, no logits of prompts.

    What rows share at their beginning counts once where it is computed once.
    """
    tokens = facts["computed_tokens" if shared else "tokens"][step]
    each = facts["work"]
    return float(
        each["layers"] * tokens
        + each["head"] * facts["trained_tokens"][step]
        + each["attention"] * facts["pairs"][step]
    )


def row(name: str, runs: list[dict[str, Any]], facts: dict[str, Any], warm_up: int, reference: Sequence[float]) -> Row:
    """What the runs of one arm say together.

    Args:
        name: Of the arm.
        runs: Their results, with `wall_seconds`.
        facts: What the arm `prepare` returned.
        warm_up: Steps at the start that are not counted.
        reference: Losses to compare with.
    """
    system, lane, _ = ARMS[name]
    timed = range(warm_up, len(facts["tokens"]))
    seconds = [sum(run["seconds"][warm_up:]) for run in runs]
    tokens = sum(facts["tokens"][warm_up:])
    rates = [tokens / s for s in seconds]
    work = sum(needed_work(facts, step, shared=name in _SHARING) for step in timed)
    walls = [run["wall_seconds"] for run in runs]
    differences = [abs(a - b) for run in runs for a, b in zip(run["losses"], reference, strict=True)]
    return Row(
        system=system,
        lane=lane,
        tokens_per_second=statistics.median(rates),
        trained_tokens_per_second=statistics.median(sum(facts["trained_tokens"][warm_up:]) / s for s in seconds),
        wall_seconds=statistics.median(walls),
        peak_memory_gib=statistics.median(run["peak_memory_gib"] for run in runs),
        share_of_limit=statistics.median(work / s for s in seconds) / facts["limit_flops"],
        losses=runs[0]["losses"],
        largest_loss_difference=max(differences, key=lambda d: math.inf if math.isnan(d) else d),
        all_tokens_per_second=rates,
        all_wall_seconds=walls,
    )


def run_arm(
    name: str,
    folder: Path,
    longest: float | None = None,
    python: str = sys.executable,
    *,
    hide_gpus: bool = False,
    turn: Path | None = None,
) -> tuple[dict[str, Any], float]:
    """One arm in a fresh process: its result and the seconds from its start to its end.

    Args:
        name: Of the arm, or `prepare`, or `fp8-gate`.
        folder: With request.json; `prepare` comes before arms.
        longest: Seconds after which it is ended.
        python: The interpreter it runs in.
        hide_gpus: Whether it sees none.
        turn: Where it waits for its turn to train (`luthier.bench.turn`); None: it does not.

    Raises:
        RunError: E-RUN-006 when it fails or takes longer.
    """
    command = [python, "-m", "luthier.bench.arms", str(folder), name]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    if hide_gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if turn is not None:
        environment[VARIABLE] = str(turn)
    started = time.monotonic()
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=longest)
    except subprocess.TimeoutExpired as error:
        fix = "give it more time, or run it alone"
        raise RunError(Problem("E-RUN-006", f"{label(name)}: not done after {longest:.0f} s", fix)) from error
    seconds = time.monotonic() - started
    result = folder / f"{name}.json"
    if ended.returncode or not result.is_file():
        last = (ended.stderr.strip() or ended.stdout.strip() or f"exit code {ended.returncode}").splitlines()[-1]
        raise RunError(Problem("E-RUN-006", f"{label(name)}: {last[:300]}", "run it again; luthier explain E-RUN-006"))
    return json.loads(result.read_text(encoding="utf-8")), seconds
