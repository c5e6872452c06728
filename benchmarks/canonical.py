"""Honest solutions pass in the sandbox, broken ones do not, and how many programs it runs a second.

    python benchmarks/canonical.py mbpp:all=mbpp.jsonl humaneval=HumanEval.jsonl.gz
                                                            writes benchmarks/results/canonical.json

Each task's own solution is run against its tests, as it is and broken in three ways, each of which replaces or wraps
the function that the tests call:

    none        it returns None
    constant    it returns 7
    flipped     it returns -x for a number x, not x for a truth value, [x] for all else

A broken solution that passes says something of the tests, not of the sandbox; each is named in the file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from luthier.evaluate.sandbox import Program, Sandbox, Verdict
from luthier.evaluate.tasks import Task, load_sets
from luthier.machine.record import surroundings

RESULTS = Path(__file__).parent / "results" / "canonical.json"
BREAKERS = {
    "none": "def {name}(*a, **k):\n    return None\n",
    "constant": "def {name}(*a, **k):\n    return 7\n",
    "flipped": (
        "def _flipped(function):\n"
        "    def wrapped(*a, **k):\n"
        "        x = function(*a, **k)\n"
        "        if isinstance(x, bool):\n"
        "            return not x\n"
        "        return -x if isinstance(x, (int, float)) else [x]\n"
        "    return wrapped\n"
        "{name} = _flipped({name})\n"
    ),
}


def main() -> None:
    """Run all, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="+", help="as for `luthier evaluate --tasks`")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    content: dict[str, Any] = {"surroundings": surroundings(), "workers": arguments.workers, "sets": {}}
    with Sandbox() as sandbox:
        content["sandbox"] = sandbox.tier
        for one in load_sets(",".join(arguments.tasks)):
            content["sets"][one.name] = result = measured(one.tasks, sandbox, arguments.workers)
            print(f"{one.name}: {json.dumps({k: v for k, v in result.items() if k != 'failed'})}", flush=True)
            if result["failed"]:
                print(f"  honest solutions that fail: {result['failed']}", file=sys.stderr)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def measured(tasks: tuple[Task, ...], sandbox: Sandbox, workers: int) -> dict[str, Any]:
    """Counts, names of what is not as it should be, and the rate of the honest programs."""

    def run(broken: str = "") -> list[Verdict]:
        return sandbox.run([program(task, broken) for task in tasks], workers)

    started = time.monotonic()
    honest = run()
    seconds = time.monotonic() - started
    found: dict[str, Any] = {
        "tasks": len(tasks),
        "passed": sum(verdict.passed for verdict in honest),
        "programs_per_second": round(len(tasks) / seconds, 1),
        "failed": {
            task.task_id: f"{verdict.cause}: {verdict.detail}"
            for task, verdict in zip(tasks, honest, strict=True)
            if not verdict.passed
        },
        "broken": {},
    }
    for name, text in BREAKERS.items():
        verdicts = run(text)
        passed = [task.task_id for task, verdict in zip(tasks, verdicts, strict=True) if verdict.passed]
        found["broken"][name] = {"failed": len(tasks) - len(passed), "passed": passed}
    return found


def program(task: Task, broken: str = "") -> Program:
    """A task's own solution; `broken` follows it."""
    return Program(f"{task.reference}\n{broken.format(name=task.entry_point)}", task.tests, task.entry_point)


if __name__ == "__main__":
    main()
