"""Whether a resume is exact, with this config on this machine: three runs of its first steps, each a fresh process.

    straight   steps 1 ... N
    killed     steps 1 ... N/2, checkpoint, one step more, SIGKILL
    resumed    --resume auto: from the checkpoint to N

The plan is the real one, with the total steps and the schedule of the whole run; only its end comes earlier, as if a
stop had been asked for after step N. What is changed decides no number: where files go, how often is logged, saved
and evaluated, and no samples. The tokens of a pass are fixed beforehand, because free memory may change in between.

When the two differ, the straight run is repeated: if even that one differs, this machine's arithmetic is not
repeatable, and no resume can be exact on it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier import api
from luthier.config.load import Loaded
from luthier.config.outputs import EVENTS
from luthier.config.plan import Plan
from luthier.errors import MissingError, ModelError, Problem, RunError
from luthier.events.read import read
from luthier.events.types import Notice, Resumed
from luthier.gate.gate import known_checks
from luthier.training.checkpoint import path_of
from luthier.training.commit import verify
from luthier.verify.child import SIGKILL
from luthier.verify.compare import Comparison, compare

CHILD = ("-m", "luthier.verify.child")


@dataclass(frozen=True)
class Verified:
    """What came out.

    Attributes:
        steps: Steps of each run.
        resumed_from: Step of the checkpoint.
        killed_after: The step that was done and not saved when the process was killed.
        comparison: Straight run against killed and resumed run.
        repeatable: Whether the straight run, repeated, is the same; None when there was no need to repeat it.
        surroundings: What the resumed run itself said about not being bit-identical.
    """

    steps: int
    resumed_from: int
    killed_after: int
    comparison: Comparison
    repeatable: bool | None
    surroundings: tuple[str, ...]


def verify_resume(loaded: Loaded, steps: int, say: Callable[[str], None], allow: Sequence[str] = ()) -> Verified:
    """Run everything in a folder beside `training.output_dir`, which is deleted in the end.

    Args:
        loaded: The user's config.
        steps: Steps of each run, at least 2; fewer when the plan has fewer.
        say: Told what is being run.
        allow: Checks of the gate that may fail.

    Raises:
        LuthierError: The config cannot be run here; E-RUN-021 when a run fails, or did not resume;
            E-ENV-002.
    """
    known_checks(allow)
    plan, problems = api.plan(loaded)
    if problems:
        raise ModelError(*problems)
    last = min(steps, plan.total_steps)
    if last < 2:
        found = "the plan has a single step, so there is nothing to interrupt"
        raise RunError(Problem("E-RUN-021", found, "write max_steps: 8", "training.max_steps"))
    middle = last // 2
    with _beside(Path(plan.config.training.output_dir).expanduser()) as name:
        folder = Path(name)

        def run(name: str, into: str, what: str, *, kill_after: int = 0, resume: bool = False) -> Path:
            say(what)
            config = _config(loaded, plan, folder / into, middle)
            request = {"config": config, "last_step": last, "kill_after": kill_after, "resume": resume}
            _in_process(folder / f"{name}.json", {**request, "allow": list(allow)})
            return folder / into

        straight = run("straight", "straight", f"1 of 3: {last} steps, straight through")
        run("killed", "killed", f"2 of 3: the same, killed with SIGKILL after step {middle + 1}", kill_after=middle + 1)
        _require_checkpoint(folder / "killed", middle)
        resumed = run("resumed", "killed", f"3 of 3: resumed from checkpoint-{middle}", resume=True)
        _require_resumed(resumed, middle)
        comparison, repeatable = compare(straight, resumed, last), None
        if not comparison.equal:
            again = run("again", "again", "they differ; once more straight through, to see whether that is the same")
            repeatable = compare(straight, again, last).equal
        return Verified(last, middle, middle + 1, comparison, repeatable, _surroundings(resumed))


def _beside(output_dir: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder on the disk of the real run: checkpoints can be large, and /tmp small."""
    parent = next(path for path in output_dir.absolute().parents if path.is_dir())
    try:
        return tempfile.TemporaryDirectory(prefix=f".{output_dir.name}-verify-", dir=parent)
    except OSError as error:
        found = f"cannot make a folder in {parent}: {error.strerror}"
        fix = "write an output_dir in a folder that you may write to"
        raise MissingError(Problem("E-ENV-002", found, fix, "training.output_dir")) from error


def _config(loaded: Loaded, plan: Plan, folder: Path, middle: int) -> dict[str, Any]:
    """The user's config, with what the verification changes."""
    config = loaded.written
    config["training"]["output_dir"] = str(folder)
    config["checkpointing"] = {"save_steps": middle, "save_first_step": False, "save_minutes": 0}
    config["logging"] = {"logging_steps": 1, "histogram_steps": 0, "report_to": []}
    config["evaluation"] |= {"sample_prompts": [], "eval_steps": middle if plan.eval_every else 0}
    if plan.config.training.auto:
        config["training"]["max_tokens_per_micro_batch"] = plan.max_tokens_per_micro_batch
    return config


def _in_process(path: Path, request: dict[str, Any]) -> None:
    """Run a request in a fresh process, to its end or to its SIGKILL.

    Raises:
        RunError: E-RUN-021 when it ends in another way.
    """
    path.write_text(json.dumps(request), encoding="utf-8")
    ended = subprocess.run([sys.executable, *CHILD, str(path)], capture_output=True, text=True, check=False)
    if ended.returncode == (-SIGKILL if request["kill_after"] else 0):
        return
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith("E-")), lines[-1] if lines else "it said nothing")
    found = f"the {path.stem} run ended with exit code {ended.returncode}: {told[:300]}"
    raise RunError(Problem("E-RUN-021", found, "run luthier train with this config, which shows the whole error"))


def _require_checkpoint(folder: Path, step: int) -> None:
    """Something else may have killed the run, or nothing could be saved.

    Raises:
        RunError: E-RUN-021.
    """
    checkpoint = path_of(folder, step)
    broken = verify(checkpoint) if checkpoint.is_dir() else "it is not there"
    if broken:
        found = f"the killed run left no whole {checkpoint.name}: {broken}"
        raise RunError(Problem("E-RUN-021", found, "look whether memory and disk suffice, and verify again"))


def _require_resumed(folder: Path, step: int) -> None:
    """A run that starts over becomes the straight one, too.

    Raises:
        RunError: E-RUN-021.
    """
    resumed = [event for event, _ in read(folder / EVENTS) if isinstance(event, Resumed)]
    if [event.step for event in resumed] != [step]:
        where = f"from step {resumed[-1].step}" if resumed else "from no checkpoint: it started over"
        found = f"the resumed run was to go on from step {step}, and went on {where}"
        fix = "look whether the disk keeps what is written to it; if it does, please report this"
        raise RunError(Problem("E-RUN-021", found, fix))


def _surroundings(folder: Path) -> tuple[str, ...]:
    notices = [event.text for event, _ in read(folder / EVENTS) if isinstance(event, Notice)]
    return tuple(text for text in notices if "not bit-identical" in text)
