"""Makes the pages of docs/ from those of guide/: their blanks filled, and the reference.

A page of guide/ may hold these blanks, so that nothing in it can go stale:

    {{ packing.real_tokens:,d }}               a number of guide/measured.json, guide/reliability.json or some
                                               of benchmarks/results, in a format of Python
    {{ source luthier.training.step.update }}  the source of a function or class as a code block
    {{ file configs/mbpp_small.yaml }}         a whole file as a code block
    {{ arithmetic }}                           the derived numbers of the shipped config, as the plan shows them
    {{ rates }}                                its learning rate at some steps
    {{ time_lines }}                           the two lines of the log that predict the time
    {{ gate checks }}                          the checks of the gate
    {{ doctor rules }}                         the rules of the doctor, and how they did on the labelled runs:
    {{ doctor scores }}                        tests/doctor/runs/scores.json
    {{ doctor NAME }}                          what the doctor says of one of these runs

Not covered: measuring (guide/measure.py, by hand). Nothing here imports torch.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from lookup import config_page, errors_page, events_page, glossary_page, python_page, source

from luthier.config.load import load
from luthier.config.plan import DataFacts, MachineFacts, Plan
from luthier.config.resolve import resolve
from luthier.config.tree import number
from luthier.doctor import RULES, History, findings, fold
from luthier.doctor.report import as_text
from luthier.events.line import parse_line
from luthier.events.numbers import NUMBERS
from luthier.events.record import from_record
from luthier.events.types import Evaluated, Log, RunFinished, TimeForecast
from luthier.gate.checks import CHECKS
from luthier.training.schedule import learning_rate

GUIDE = Path(__file__).resolve().parent
ROOT = GUIDE.parent
DOCS = ROOT / "docs"
MADE = "<!-- Made by `make docs` from "
"""How every page of docs/ begins."""
RUNS = ROOT / "tests" / "doctor" / "runs"
BLANK = re.compile(
    r"\{\{ (?:(?P<verb>source|file|doctor|gate) (?P<what>\S+)|(?P<plan>arithmetic|rates|lines|time_lines)"
    r"|(?P<number>[a-z_]+\.\w+)(?::(?P<format>[^ }]+))?) \}\}"
)


def pages() -> list[Path]:
    """The pages as they are written."""
    return sorted(GUIDE.rglob("*.md"))


def measured() -> dict[str, dict[str, Any]]:
    """The numbers of guide/measure.py, of `make torture` (each suite with its counts) and of some benchmarks."""
    numbers: dict[str, dict[str, Any]] = json.loads((GUIDE / "measured.json").read_text(encoding="utf-8"))
    suites = json.loads((GUIDE / "reliability.json").read_text(encoding="utf-8"))
    watch = json.loads((ROOT / "benchmarks" / "results" / "watch.json").read_text(encoding="utf-8"))
    screens = [screen for screen in watch.values() if isinstance(screen, dict)]
    shares = {name: max(screen[name]["share_of_all_cores"] for screen in screens) for name in ("idle", "growing")}
    runs = json.loads((ROOT / "benchmarks" / "results" / "quickstart_cpu.json").read_text(encoding="utf-8"))["runs"]
    tuned = [run["tuned"] for run in runs if run["load_in_4bit"]]
    phrasing = [100 * shares["phrasing"] for shares in tuned]
    seeds = {"count": len(tuned), "lowest": min(phrasing), "highest": max(phrasing)}
    seeds |= {split: 100 * fmean(shares[split] for shares in tuned) for split in tuned[0]}
    canonical = json.loads((ROOT / "benchmarks" / "results" / "canonical.json").read_text(encoding="utf-8"))
    sets = {name.partition(":")[0]: one for name, one in canonical["sets"].items()}
    broken = {f"{name}_broken": {k: len(v["passed"]) for k, v in one["broken"].items()} for name, one in sets.items()}
    ranks = json.loads((ROOT / "benchmarks" / "results" / "ranks_cpu.json").read_text(encoding="utf-8"))
    rounds = [each["efficiency"] for each in ranks["rounds"]]
    scaling = {**ranks, "count": len(rounds), "lowest": min(rounds), "highest": max(rounds)}
    saving = json.loads((ROOT / "benchmarks" / "results" / "saving_cpu.json").read_text(encoding="utf-8"))
    begun = json.loads((ROOT / "benchmarks" / "results" / "rounding.json").read_text(encoding="utf-8"))
    more = {"watch": {**watch, **shares}, "seeds": seeds, "weak_scaling": scaling, "saving": saving}
    more["rounding"] = arrived(begun)
    tried = json.loads((ROOT / "benchmarks" / "results" / "preferences_cpu.json").read_text(encoding="utf-8"))["seeds"]
    more |= {name: preferred(seed) for name, seed in zip(("preferred", "preferred_again"), tried, strict=True)}
    return numbers | {name: suite | suite["figures"] for name, suite in suites.items()} | sets | broken | more


def arrived(begun: dict[str, Any]) -> dict[str, Any]:
    """Of `benchmarks/rounding.py`: at each learning rate and base the fall in float32, and which part of it is left."""
    numbers: dict[str, Any] = {"device": begun["surroundings"]["device"], "examples": begun["examples"]}
    for i, rate in enumerate(begun["learning_rates"]):
        numbers[f"rate_{i}"] = rate
        for base, ways in begun["loss_drops"].items():
            whole, lean, peft = (falls[i] for falls in ways.values())
            numbers |= {f"{base}_fall_{i}": whole, f"{base}_lean_{i}": lean / whole, f"{base}_peft_{i}": peft / whole}
    return numbers


def preferred(seed: dict[str, Any]) -> dict[str, Any]:
    """Of a seed of `benchmarks/preferences.py`: each run's held-out pairs at its end and tasks solved, in percent."""
    numbers: dict[str, Any] = {"new_tasks": seed["new_tasks"], "pairs": seed["pairs"]}
    for run in seed["runs"]:
        name = "_".join(
            [run["objective"], f"{run['learning_rate'] * 1e4:g}", *([f"{run['beta'] * 10:g}"] if run["beta"] else [])]
        )
        last, whole = run["held_out"][-1], run["greedy"]["changes"][0]
        numbers |= {f"{name}_loss": last["eval_loss"], f"{name}_solved": 100 * whole["tuned"]["share"]}
        numbers |= {"steps": run["steps"], "before": 100 * whole["base"]["share"], "tasks": whole["tuned"]["tasks"]}
        if "reward_chosen" in last:
            numbers |= {
                f"{name}_right": 100 * last["reward_accuracy"],
                f"{name}_chosen": last["reward_chosen"] / run["beta"],
            }
    return numbers


def filled(text: str, numbers: dict[str, dict[str, Any]]) -> str:
    """The page with its blanks filled.

    Raises:
        KeyError: A number that was not measured, or a symbol that is not in the source.
    """

    def fill(blank: re.Match[str]) -> str:
        if blank["verb"] == "source":
            return code_block(*source(blank["what"]))
        if blank["verb"] == "file":
            return code_block((ROOT / blank["what"]).read_text(encoding="utf-8").rstrip(), blank["what"])
        if blank["verb"] == "doctor":
            return {"rules": rules_table, "scores": scores_table}.get(blank["what"], lambda: diagnosis(blank["what"]))()
        if blank["verb"] == "gate":
            return checks_table()
        if blank["plan"]:
            makers = {"arithmetic": arithmetic, "rates": rates, "lines": log_lines, "time_lines": time_lines}
            return makers[blank["plan"]]()
        experiment, _, name = blank["number"].partition(".")
        if name not in numbers.get(experiment, {}):
            raise KeyError(f"{blank['number']} is not measured; run: python guide/measure.py {experiment}")
        return format(numbers[experiment][name], blank["format"] or "")

    return BLANK.sub(fill, text)


def code_block(code: str, path: str) -> str:
    """A fenced block, under the name of its file; not so a captured screen, of which nobody needs the file."""
    language = {".py": "python", ".yaml": "yaml"}.get(Path(path).suffix)
    return f"`{path}`\n\n```{language}\n{code}\n```" if language else f"```text\n{code}\n```"


def shipped_plan() -> Plan:
    """That of configs/training_config.yaml, with the rows that its dataset has."""
    rows, held_out = 18_612, 931
    machine = MachineFacts("cpu", "CPU", 1, True, 1.0, 1.0, 1, True)
    data = DataFacts(rows - held_out, held_out, 0, 0, 1, "alpaca", "")
    return resolve(load(ROOT / "configs/training_config.yaml"), machine, None, data)


def rates() -> str:
    """Learning rates of the shipped plan: in its warmup, at its peak, half way, at three quarters, at its end."""
    plan = shipped_plan()
    warm, last = plan.warmup_steps, plan.total_steps
    steps = (1, warm // 2, warm, (warm + last) // 2, (warm + 3 * last) // 4, last)
    rounded = {step: float(f"{learning_rate(plan, step - 1):.3g}") for step in steps}
    return ", ".join(f"{number(rate)} at step {step:,}" for step, rate in rounded.items())


def arithmetic() -> str:
    """What the plan derives for configs/training_config.yaml."""
    plan = shipped_plan()
    names = ("examples_per_step", "steps_per_epoch", "total_steps", "warmup_steps", "decay_steps", "eval_every")
    values = [plan.value(name) for name in names]
    return "```text\n" + "\n".join(f"{v.key:<17} {v.value:>9,.6g}  {v.how}" for v in values) + "\n```"


def rules_table() -> str:
    """Every rule of the doctor with its own texts."""
    rows = [f"| `{r.name}` | {r.severity} | **{r.title}.** {r.why} | {r.when.removeprefix('Fires ')} |" for r in RULES]
    return "\n".join(("| rule | severity | what it means | fires |", "|---|---|---|---|", *rows))


def log_lines() -> str:
    """The three lines of training.log that have numbers, and every key of them with its text."""
    log = Log(20, 0.018, 2.3871, 0.91, 4e-05, 61_300, 1_480.0, 520.0, 2.1, 9.62, 6_900.0)
    end = RunFinished("done", 3_315, 3.0, 1.1432, 6_948.0, 10_160_000, 9.7, "", predicted_runtime=6_900.0)
    lines = (log, Evaluated(276, 0.25, 1.0312, 4_000, 35.0, True), end)
    told = [str(line) for line in lines]
    keys = dict.fromkeys(key for line in told for key in parse_line(line) or {})
    table = [f"| `{key}` | {NUMBERS[key].idea} |" for key in keys]
    return "\n".join(("```text", *told, "```", "", "| key | meaning |", "|---|---|", *table))


def time_lines() -> str:
    """The two lines of training.log that predict the time."""
    ends = time.mktime((2026, 3, 2, 16, 40, 0, 0, 0, -1))
    first = TimeForecast(0, 7_226.0, ends, 3_315, 2.1, 17, 15.0, 18, 0.5, 0, math.nan, 2_408.0, 0, math.nan)
    then = TimeForecast(20, 6_853.0, ends - 360, 3_295, 2.0, 17, 15.0, 17, 0.5, 0, math.nan, 2_284.0, 17, 0.04)
    return "\n".join(map(str, (first, then)))


def checks_table() -> str:
    """Every check of the gate with its own texts."""
    rows = [f"| `{c.name}` | **{c.title}.** {c.why} | {c.when} | {c.remedy} |" for c in CHECKS]
    return "\n".join(("| check | what it means | when | what to do |", "|---|---|---|---|", *rows))


def scores_table() -> str:
    """How the rules did on the labelled runs, as recipes/sick_runs/score.py measured it."""
    scores = json.loads((RUNS / "scores.json").read_text(encoding="utf-8"))
    seeds = ["| seed | sound runs with a false alarm | sick runs named |", "|---|---|---|"]
    seeds += [f"| {seed} | {a} of {b} | {c} of {d} |" for seed, (a, b, c, d) in scores["seeds"].items()]
    labels = ["| label | right | of |", "|---|---|---|"]
    labels += [f"| {label} | {right} | {count} |" for label, (right, count) in scores["labels"].items()]
    return "\n".join((*seeds, "", *labels))


def diagnosis(name: str) -> str:
    """What `luthier doctor` prints for a labelled run: `label/name-seed`."""
    run, last = History(), 0.0
    with gzip.open(RUNS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        for event, about in (from_record(json.loads(line)) for line in file):
            last = about["time"]
            run = fold(run, event, last)
    return f"```text\n{as_text(findings(run, last), '', run.step)}\n```"


def site() -> dict[str, str]:
    """Every page of docs/ by its path there."""
    numbers = measured()
    made = {
        page.relative_to(GUIDE).as_posix(): (page.relative_to(ROOT), filled(page.read_text(encoding="utf-8"), numbers))
        for page in pages()
    }
    made |= {
        "reference/config.md": ("src/luthier/config/schema.py", config_page()),
        "reference/errors.md": ("src/luthier/errors/codes", errors_page()),
        "reference/events.md": ("src/luthier/events/types.py", events_page()),
        "reference/glossary.md": ("src/luthier/config/words", glossary_page()),
        "reference/python.md": ("guide/reference/python.md and src/luthier", python_page()),
    }
    first = MADE + "{}: edit that, not this. -->\n\n"
    return {name: f"{first.format(origin)}{text.strip()}\n" for name, (origin, text) in made.items()}


def strays(made: Iterable[str]) -> list[Path]:
    """Pages of docs/ that this made once, and whose source is gone."""
    old = (page for page in sorted(DOCS.rglob("*.md")) if page.relative_to(DOCS).as_posix() not in made)
    return [page for page in old if page.read_text(encoding="utf-8").startswith(MADE)]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """For mkdocs, which takes a page's title from its first block: the page without its first line."""
    return markdown.partition("\n")[2]


def build() -> None:
    """Write the pages of docs/, and remove those whose source is gone."""
    made = site()
    for page in strays(made):
        page.unlink()
    for name, text in made.items():
        (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    build()
