"""Whether cost is linear: tokens a second at ten times the rows, four times their length, and any split of a step.

    python benchmarks/linear.py [--rows FILE] [--steps 12] [--json FILE]

Each case is a fresh process that trains the base of `luthier bench` (QLoRA, rank 16) for a few steps of about the same
number of tokens. Rows of the larger cases are made of the smaller ones': with a counter added, so that no row is there
twice, and four instructions and their four answers in one. Rates leave out the first steps. Tokens are those of the
rows; words that all rows of a pass begin with are computed once, so fewer are computed, most of all in short rows.

Not covered: other trainers (`luthier bench`), GPUs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from luthier.bench.base import make_base
from luthier.bench.setting import DEFAULTS, RUN_KEYS, ingredients
from luthier.machine.record import surroundings

WARM_UP = 4
CASES = {
    "1x rows, 4 x 4": ("plain", 4, 4),
    "10x rows, 4 x 4": ("many", 4, 4),
    "4x length, 4 x 1": ("long", 4, 1),
    "1 x 16": ("plain", 1, 16),
    "16 x 1": ("plain", 16, 1),
}


def write_rows(source: Path, folder: Path) -> None:
    """plain.jsonl, many.jsonl and long.jsonl out of the alpaca rows of `source`."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    rows = [{"instruction": r.get("instruction") or r["text"], "output": r.get("output") or r["code"]} for r in rows]
    many = [{**row, "instruction": f"{row['instruction']} ({n})"} for n in range(10) for row in rows]
    fours = [group for group in itertools.zip_longest(*[iter(rows)] * 4) if group[-1] is not None]
    long = [{key: "\n".join(row[key] for row in group) for key in ("instruction", "output")} for group in fours]
    for name, content in {"plain": rows, "many": many, "long": long}.items():
        text = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def train(folder: Path, rows: str, batch: int, accumulation: int, steps: int) -> dict[str, Any]:
    """One case, in this process."""
    from luthier import api
    from luthier.data.loader import training_steps
    from luthier.events.types import Log

    written = {"per_device_train_batch_size", "gradient_accumulation_steps", "data.datasets"}
    keys = [key for key in DEFAULTS if key.partition("=")[0] not in written]
    keys += [f"model_name_or_path={folder / 'base'}", f"output_dir={folder / 'run'}", f"max_steps={steps}"]
    keys += [f"data.datasets=[{{path: {folder / rows}.jsonl}}]", f"cache_dir={folder / 'cache'}"]
    keys += [f"per_device_train_batch_size={batch}", f"gradient_accumulation_steps={accumulation}"]
    events = api.train({}, [*keys, *RUN_KEYS], overwrite=True)
    logs = [event for event in events if isinstance(event, Log)][WARM_UP - 1 :]
    tokens = logs[-1].num_tokens - logs[0].num_tokens
    seconds = sum(log.step_seconds for log in logs[1:])
    parts = ingredients(keys)
    timed = list(training_steps(parts.data.train, parts.plan, WARM_UP, 0, 1))
    computed = sum(batch.input_ids_BT.numel() for step in timed for batch in step)
    return {
        "tokens_per_second": tokens / seconds,
        "computed_tokens_per_second": computed / seconds,
        "tokens_per_step": tokens / len(timed),
        "tokens_per_pass": parts.plan.max_tokens_per_micro_batch,
    }


def main() -> None:
    """Run all cases in turns and print the rates beside the first one's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=Path("src/luthier/quickstart/rows/train.jsonl"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        folder, name = arguments.case
        print("RESULT " + json.dumps(train(Path(folder), *CASES[name], arguments.steps)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(arguments.rows, folder)
        make_base(folder / "base")
        runs: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
        for _, case in itertools.product(range(arguments.repeats), CASES):
            command = [sys.executable, __file__, "--steps", str(arguments.steps), "--case", name, case]
            output = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line for line in output.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                sys.exit(f"{case} failed:\n{output.stderr[-4000:]}")
            runs[case].append(json.loads(lines[-1].removeprefix("RESULT ")))
    best = {case: max(results, key=lambda r: r["tokens_per_second"]) for case, results in runs.items()}
    first = next(iter(best.values()))
    for case, result in best.items():
        columns = [f"{case:18} {result['tokens_per_step']:7,.0f} tokens a step"]
        for name in ("tokens_per_second", "computed_tokens_per_second"):
            columns.append(f"{result[name]:8,.0f} {name.replace('_', ' ')} {result[name] / first[name]:5.2f}")
        print("   ".join(columns))
    if arguments.json:
        record = {
            "surroundings": surroundings(),
            "rows": arguments.rows.name,
            "best_of": arguments.repeats,
            "cases": best,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
