"""The record of a run, in plan.yaml: enough to do it again, and to see what is not as it was.

    inputs         SHA-256 of rows, dataset files, template, tokenizer, base weights     another one: refused
    surroundings   versions, threads, device, git commit                                 another one: said

The record is written when the rows are known, again when the weights are loaded, and when memory runs out. A run that
repeats another (`Loaded.record`) is compared with it at the first two times, before its first step. One that goes on
keeps its record until its base is known to be the one that it was trained on.

Not covered: reading a record (`luthier.config.record`).
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from luthier.config.load import Loaded, Record
from luthier.config.outputs import RECORD
from luthier.config.plan import Plan
from luthier.config.record import VERSION, load_record, seal
from luthier.config.render import dump_plan_yaml
from luthier.data.prepare import Prepared
from luthier.errors import LuthierError, Problem, RefusedError
from luthier.errors.secrets import hide
from luthier.machine.files import write_whole
from luthier.machine.ranks import rank
from luthier.machine.record import surroundings
from luthier.training.checkpoint import Checkpoint
from luthier.training.identity import check_base

_NAMES = {
    "files": "the files of the dataset",
    "template": "the prompt template",
    "tokenizer": "the tokenizer",
    "base": "the base model",
    "rows": "the rows that are trained, or how they become tokens",
}
_OTHER_ROWS = ("data.", "training.seed", "model.tokenizer_name_or_path")


@dataclass
class RunRecord:
    """What a run is made from, gathered while it starts.

    Attributes:
        plan: The plan.
        facts: The part `record` of plan.yaml.
        then: The record that this run repeats, if it does.
        allow_changes: Whether inputs may differ from it.
        differs: What is not as in the record that is repeated.
    """

    plan: Plan
    facts: dict[str, Any]
    then: Record | None = None
    allow_changes: bool = False
    differs: list[str] = field(default_factory=list)

    def compare(self) -> list[str]:
        """Sentences on what is known by now and differs from the record.

        Raises:
            RefusedError: E-RUN-020 when data, template, tokenizer or weights do, and that was not allowed.
        """
        if self.then is None:
            return []
        said, refused = differences(self.then, self.facts)
        if refused and not self.allow_changes:
            raise RefusedError(*refused)
        allowed = [f"Repeated with a change that you allowed: {problem.found}" for problem in refused]
        new = [text for text in (*said, *allowed) if text not in self.differs]
        self.differs += new
        return new

    def promise(self) -> str:
        """What a repetition comes to in which nothing differs; empty for any other run."""
        if self.then is None or self.differs or self.facts["resumed_with"]:
            return ""
        exact = ", bit for bit" if self.plan.machine.device == "cpu" else "; to the last bit is not yet shown on a GPU"
        return f"nothing differs from {self.then.path}: the same numbers are to come{exact}"

    def with_base(self, hashes: dict[str, str], lean_path: bool, checkpoint: Checkpoint | None) -> list[str]:
        """Add what is known once the model is loaded; returns what `compare` says, and of another base than before.

        Raises:
            CheckpointError: E-CKPT-003, the checkpoint was trained on another base, and that was not allowed.
        """
        said: list[str] = []
        if checkpoint:
            then = checkpoint.identity.get("base") or self.facts["inputs"].get("base", {})
            said = check_base(then, hashes, str(checkpoint.path), self.allow_changes)
            self.facts["resumed_with"] += said
        self.facts["inputs"]["base"] = hashes
        self.facts["lean_path"] = lean_path
        return said + self.compare()

    def lowered(self, plan: Plan, step: int, output_dir: Path) -> None:
        """Write down that memory ran out and the passes are those of `plan`, after `step` steps with others."""
        if step:
            self.facts["resumed_with"].append(f"its passes were lowered after step {step:,}, when memory ran out")
        else:
            self.plan, self.facts["passes"] = plan, _passes(plan)
        with suppress(OSError):  # a disk that is full ends no run
            self.write(output_dir)

    def write(self, output_dir: Path) -> None:
        """Write plan.yaml, whole or not at all."""
        if rank() != 0:
            return
        text = seal(dump_plan_yaml(self.plan, {"record": {**self.facts, "differs": self.differs}}))
        write_whole(output_dir / RECORD, text)


def start_record(
    plan: Plan,
    data: Prepared,
    loaded: Loaded,
    *,
    allow_changes: bool,
    earlier: Path | None = None,
    resumed_with: Sequence[str] = (),
) -> RunRecord:
    """The record of a run whose rows are known.

    Args:
        plan: The plan.
        data: The rows.
        loaded: The config.
        allow_changes: See `RunRecord`.
        earlier: Folder of the run, when this is an attempt to go on with it: its commands and changes stay.
        resumed_with: What is not as it was at the checkpoint.
    """
    before = _facts_in(earlier) if earlier else {}
    facts = {
        "version": VERSION,
        "commands": [*before.get("commands", []), command()],
        "folder": hide(str(Path.cwd())),
        "started": before.get("started") or time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "resumed_with": [*before.get("resumed_with", []), *resumed_with],
        "repeats": str(loaded.record.path) if loaded.record else None,
        "surroundings": surroundings() | {"cores": plan.machine.cpu_cores, "world_size": plan.machine.world_size},
        "inputs": {name: value for name, value in before.get("inputs", {}).items() if name == "base"} | inputs(data),
        "passes": _passes(plan),
        "lean_path": plan.config.training.lean_path,
    }
    return RunRecord(plan, facts, loaded.record, allow_changes)


def _passes(plan: Plan) -> dict[str, Any]:
    return {name: value for name, value in asdict(plan.passes).items() if name != "how"}


def command() -> str:
    """The command line of this process, without secrets."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.stem == "__main__" else program.name  # python -m luthier
    return hide(shlex.join([name, *sys.argv[1:]]))


def inputs(data: Prepared) -> dict[str, Any]:
    """Hashes of everything but the weights."""
    return {
        "rows": data.fingerprint,
        "files": dict(data.contents),
        "template": data.template.hash,
        "tokenizer": data.tokenizer_hash,
    }


def differences(then: Record, now: Mapping[str, Any]) -> tuple[list[str], list[Problem]]:
    """What is not as in the record: sentences on the surroundings, and problems for inputs.

    Rows that become others because an override asks for it are no problem.
    """
    said = [f"{name}: {a} in {then.path}, {b} now" for name, a, b in _other(then.facts, now, "surroundings")]
    if then.facts.get("folder") != now.get("folder"):
        said.append(f"the run was started in {then.facts.get('folder')}; relative paths count from here")
    said += [f"the recorded run was not of one piece: {text}" for text in then.facts.get("resumed_with", [])]
    refused = []
    asked = [key for key in then.changed if key != "training.output_dir"]
    said += [f"as the command line asks, another {', '.join(asked)}"] if asked else []
    fix = "put back what it was, or accept it with --allow-changes"
    for name, a, b in _other(then.facts, now, "inputs"):
        if name == "files" and sorted(a.values()) == sorted(b.values()):
            continue
        if name == "rows" and any(key.startswith(_OTHER_ROWS) for key in asked):
            continue
        if name in _NAMES:
            refused.append(Problem("E-RUN-020", f"{_NAMES[name]}: {_which(a, b)}", fix, str(then.path)))
    named = {problem.found.partition(":")[0] for problem in refused}
    if len(named) > 1:  # other files or another template make other rows: told once
        refused = [problem for problem in refused if not problem.found.startswith(_NAMES["rows"])]
    return said, refused


def _other(then: Mapping[str, Any], now: Mapping[str, Any], part: str) -> list[tuple[str, Any, Any]]:
    """(name, then, now) of what both know and is not the same."""
    before, after = then.get(part) or {}, now.get(part) or {}
    return [(name, before[name], after[name]) for name in before if name in after and before[name] != after[name]]


def _which(then: Any, now: Any) -> str:
    if not isinstance(then, dict):
        return f"{str(then)[:12]} in the record, {str(now)[:12]} now"
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    told = [f"{name} {str(then.get(name))[:12]} in the record, {str(now.get(name))[:12]} now" for name in names]
    return "; ".join(told[:3]) + (f"; and {len(told) - 3} more" if len(told) > 3 else "")


def _facts_in(folder: Path) -> dict[str, Any]:
    """The record in a run's folder; empty where none can be read."""
    try:
        record = load_record(folder).record
    except LuthierError:
        return {}
    return record.facts if record else {}
