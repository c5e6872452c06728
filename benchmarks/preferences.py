"""Preference pairs of a model's own answers: what training on them does to tasks it was never asked.

    python benchmarks/preferences.py --seeds 42        writes benchmarks/results/preferences_cpu.json

    quickstart's run --merge--> start --8 answers to each new task, run--> pairs --+-- dpo, some settings
                                  |                                                 `-- sft on the chosen answers alone
                                  `------- the 170 held-out tasks, greedily ------- each of these beside it

New tasks are drawn by the quickstart's recipe as its training rows are, in other words and with other values than
those; the recipe's own rules hold the 170 tasks apart from them. All commands are the ordinary ones, each in a process
of its own; what lies in the folder of an earlier run is not done again. Every setting that was run to
its end is in the file. The 170 tasks had a say in which those are: DPO at 1e-3 was stopped when 5e-4 had ruined the
model, and SFT at 1e-4 was added beside DPO at 1e-4. No speeds are measured here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from luthier.evaluate.statistics import bootstrap_mean

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "preferences_cpu.json"
ROWS = REPOSITORY / "src" / "luthier" / "quickstart" / "rows"
OF_A_FAMILY, OF_A_COMPOSITION = 6, 2
"""New tasks of each kind."""
DRAWN = ["--samples", "8", "--temperature", "0.8", "--max-new-tokens", "160", "--forgetting", "none"]
ASKED = ["--tasks", "quickstart", "--max-new-tokens", "160", "--forgetting", "none"]
SAMPLED = ["--samples", "4", "--temperature", "0.8"]
SETTINGS = (
    ("dpo", "1e-4", "0.1"),
    ("dpo", "5e-4", "0.1"),
    ("dpo", "5e-4", "0.5"),
    ("sft", "1e-4", ""),
    ("sft", "5e-4", ""),
)
"""Objective, learning rate, beta. Each makes the same number of steps."""
TOLD = ("step", "eval_loss", "reward_chosen", "reward_rejected", "reward_accuracy")
CONFIG = """\
model: {{model_name_or_path: {start}}}
quantization: {{load_in_4bit: false}}
lora: {{r: 64, lora_alpha: 128}}
data:
  datasets: [{{path: {pairs}, {form}}}]
  max_seq_length: 512
  val_set_size: 100
training:
  output_dir: {out}
  objective: {objective}
  num_train_epochs: 2
  per_device_train_batch_size: 16
  gradient_accumulation_steps: 1
  learning_rate: {learning_rate}
  min_learning_rate: 0
  seed: {seed}
evaluation: {{eval_steps: 0.25, load_best_model_at_end: false, sample_prompts: []}}
logging: {{logging_steps: 5, histogram_steps: 0, report_to: []}}
"""
FORMS = {
    "dpo": "format: preference",
    "sft": "format: alpaca, columns: {instruction: prompt, output: chosen}",
}


def main() -> None:
    """Run all, and write what came out after each seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--folder", type=Path, help="Where runs go, and what is there already is taken from.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        tasks = folder / "tasks.jsonl"
        if not tasks.exists():
            tasks.write_text("".join(json.dumps(task) + "\n" for task in new_tasks()), encoding="utf-8")
        seeds = []
        for seed in arguments.seeds:
            seeds.append(one_seed(seed, folder / str(seed), tasks))
            command = " ".join(["python", "benchmarks/preferences.py", "--seeds", *map(str, arguments.seeds)])
            content = {"command": command, "config": CONFIG, "seeds": seeds}
            arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            print(summary(seeds), flush=True)


def new_tasks() -> list[dict[str, Any]]:
    """Tasks as those of the training rows, none of which the recipe would find in the held-out ones.

    Raises:
        SystemExit: A solution fails, or a held-out task would be among them.
    """
    sys.path.insert(0, str(REPOSITORY / "recipes" / "quickstart"))
    from rows.compose import family_of, pairs

    from rows import build, verify

    known, held = (
        [json.loads(line) for line in (ROWS / name).open(encoding="utf-8")] for name in ("train.jsonl", "heldout.jsonl")
    )
    taken, tasks = {verify.normal(row["instruction"]) for row in (*known, *held)}, []
    wanted = [(family, OF_A_FAMILY) for family in build.FAMILIES]
    wanted += [(family_of(pair), OF_A_COMPOSITION) for pair in pairs() if pair.split == "train"]
    for family, count in wanted:
        name = family.label or family.name
        rng = Random(f"preferences {name}")
        for _ in range(count):
            at = rng.randrange(len(family.train))
            draw, row = build._drawn(lambda: build._train_draw(family, at, rng), rng, taken)  # noqa: B023
            tasks.append(row | {"family": name, "entry_point": draw.name})
    Random("order").shuffle(tasks)
    if problems := verify.failures(tasks) + verify.leaks([*known, *tasks], held):
        raise SystemExit("\n".join(problems))
    return [task | {"task_id": f"new/{number:04}"} for number, task in enumerate(tasks, 1)]


def one_seed(seed: int, folder: Path, tasks: Path) -> dict[str, Any]:
    """The quickstart's run of a seed, its pairs, and each setting trained on them."""
    folder.mkdir(parents=True, exist_ok=True)
    run, start, pairs, answers = (folder / name for name in ("sft", "start", "pairs.jsonl", "answers.json"))
    if not start.exists():
        config = REPOSITORY / "configs" / "quickstart.yaml"
        luthier("train", config, f"training.output_dir={run}", f"training.seed={seed}")
        luthier("merge", run, "--to", start)
    if not pairs.exists():
        luthier("evaluate", start, "--tasks", tasks, *DRAWN, "--pairs", pairs, "--json", answers)
    (scores,) = json.loads(answers.read_text("utf-8"))["scores"].values()
    return {
        "seed": seed,
        "new_tasks": scores["pass_at_1"]["tasks"],
        "new_tasks_passed": scores["pass_at_1"]["share"],
        "causes": scores["causes"],
        "pairs": len(pairs.read_text("utf-8").splitlines()),
        "runs": [one_setting(seed, folder, *setting) for setting in SETTINGS],
    }


def one_setting(seed: int, folder: Path, objective: str, learning_rate: str, beta: str) -> dict[str, Any]:
    """Train with it, and put it beside its start."""
    out = folder / "-".join(filter(None, (objective, learning_rate, beta)))
    if not (out / "final_model").exists():
        text = CONFIG.format(
            start=folder / "start", pairs=folder / "pairs.jsonl", form=FORMS[objective], out=out,
            objective=objective, learning_rate=learning_rate, seed=seed,
        )  # fmt: skip
        config = out.with_name(f"{out.name}.yaml")
        config.write_text(text + (f"dpo: {{beta: {beta}}}\n" if beta else ""), encoding="utf-8")
        luthier("train", config)
    compared = Path(f"{out}.compare.json")
    if not compared.exists():
        luthier("compare", out, *ASKED, "--show", "0", "--json", compared)
    events = [json.loads(line) for line in (out / "events.jsonl").open(encoding="utf-8")]
    evaluated = [event for event in events if event["event"] == "evaluated"]
    return {
        "objective": objective, "learning_rate": float(learning_rate), "beta": float(beta) if beta else None,
        "steps": next(event["step"] for event in events if event["event"] == "run_finished"),
        "held_out": [{name: event[name] for name in TOLD if event.get(name) is not None} for event in evaluated],
        "greedy": greedy(json.loads(compared.read_text("utf-8"))),
        "sampled": against(sampled(out), sampled(folder / "start")),
    }  # fmt: skip


def greedy(content: dict[str, Any]) -> dict[str, Any]:
    """One greedy answer a task, by split and over all: the start, the tuned one, and the paired difference."""
    (comparison,) = content["comparisons"]
    changes = comparison["changes"]
    return {"changes": changes, "causes": {who: comparison[who]["causes"] for who in ("base", "tuned")}}


def sampled(model: Path) -> dict[str, float]:
    """Task by task, the share of drawn answers that pass."""
    file = Path(f"{model}.sampled.json")
    if not file.exists():
        luthier("evaluate", model, *ASKED, *SAMPLED, "--json", file)
    (scores,) = json.loads(file.read_text("utf-8"))["scores"].values()
    passed: dict[str, list[bool]] = {}
    for outcome in scores["outcomes"]:
        passed.setdefault(outcome["task_id"], []).append(outcome["passed"])
    return {task: sum(each) / len(each) for task, each in passed.items()}


def against(tuned: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    """Means over tasks, and the 95 % interval of the paired difference (bootstrap over tasks)."""
    differences = [tuned[task] - base[task] for task in base]
    low, high = bootstrap_mean(differences)
    means = {"base": fmean(base.values()), "tuned": fmean(tuned.values()), "difference": fmean(differences)}
    return means | {"low": low, "high": high}


def luthier(*words: object) -> None:
    """One command in a process of its own."""
    command = [sys.executable, "-m", "luthier", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-3000:]}")


def summary(seeds: list[dict[str, Any]]) -> str:
    """A line for each run."""
    lines = [f"{'seed':6}{'run':16}{'eval_loss':>10}{'accuracy':>10}{'greedy':>17}{'sampled':>17}"]
    for seed in seeds:
        for run in seed["runs"]:
            name = f"{run['objective']} {run['learning_rate']:g} {run['beta'] or ''}"
            last, whole = run["held_out"][-1], run["greedy"]["changes"][0]
            accuracy = f"{last['reward_accuracy']:.2f}" if "reward_accuracy" in last else ""
            greedy_change = f"{whole['base']['share']:.1%} {whole['difference']:+.1%}"
            drawn = f"{run['sampled']['base']:.1%} {run['sampled']['difference']:+.1%}"
            lines.append(
                f"{seed['seed']:<6}{name:16}{last['eval_loss']:10.4f}{accuracy:>10}{greedy_change:>17}{drawn:>17}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
