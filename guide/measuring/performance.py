"""The benchmarks' results as pictures and numbers; nothing is measured here.

luthier bench cpu dtype=float32 --json benchmarks/results/bench_cpu.json
luthier bench cpu --json benchmarks/results/bench_cpu_bf16.json         on a CPU that computes in bfloat16
luthier bench cpu objective=dpo learning_rate=5e-5 dtype=float32 --json benchmarks/results/bench_dpo.json
python benchmarks/linear.py --json benchmarks/results/linear_cpu.json
python benchmarks/choices.py dtype=float32 --json benchmarks/results/choices_cpu.json
python benchmarks/writing.py --json benchmarks/results/writing_cpu.json
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from measuring.drawing import AMBER, BLUE, GREY, TEAL, picture

RESULTS = Path("benchmarks/results")
NAMES = {
    "luthier/defaults": "luthier", "luthier/peft's layers": "luthier_peft", "trl/defaults": "trl", "trl/tuned": "tuned",
}  # fmt: skip


def beside_trl(name: str, drawn_as: str) -> dict[str, Any]:
    """The numbers of one comparison, and its picture."""
    bench = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    rows = {NAMES[f"{row['system']}/{row['lane']}"]: row for row in bench["rows"]}
    draw(bench["rows"], drawn_as, "pair" if bench["setting"].get("objective") == "dpo" else "token")
    setting = bench["setting"]
    first = rows["luthier"]["tokens_per_second"]
    numbers: dict[str, Any] = {
        "device": setting["surroundings"]["device"],
        "threads": setting["surroundings"]["threads"],
        "dtype": setting["dtype"],
        "limit": setting["limit_flops"] / 1e9,
        "steps": setting["steps"],
        "repeats": setting["repeats"],
        "step_tokens": setting["tokens_per_step"],
        "trained_tokens": setting["trained_tokens_per_step"],
        "torch": setting["surroundings"]["torch"],
        "trl_version": setting["peers"]["trl"],
        "difference": max(row["largest_loss_difference"] for row in bench["rows"]),
    }
    for name, row in rows.items():
        numbers |= {
            f"{name}_rate": row["tokens_per_second"],
            f"{name}_low": min(row["all_tokens_per_second"]),
            f"{name}_high": max(row["all_tokens_per_second"]),
            f"{name}_wall": row["wall_seconds"],
            f"{name}_memory": row["peak_memory_gib"],
            f"{name}_share": row["share_of_limit"],
            f"{name}_times": first / row["tokens_per_second"],
            f"{name}_difference": row["largest_loss_difference"],
        }
    return numbers


def linear(name: str) -> dict[str, Any]:
    """Rates beside those of 4 x 4 on the same rows, and where they were measured."""
    found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    plain = found["cases"]["1x rows, 4 x 4"]
    numbers: dict[str, Any] = {"linear_device": found["surroundings"]["device"]}
    for short, case in {
        "many": "10x rows, 4 x 4", "long": "4x length, 4 x 1", "ones": "1 x 16", "one": "16 x 1",
    }.items():  # fmt: skip
        for key in ("tokens_per_second", "computed_tokens_per_second"):
            numbers[f"linear_{short}_{key.partition('_')[0]}"] = found["cases"][case][key] / plain[key]
    return numbers


def pairs() -> dict[str, Any]:
    return beside_trl("bench_dpo", "performance-pairs")


def bfloat() -> dict[str, Any]:
    return beside_trl("bench_cpu_bf16", "performance-bfloat16") | linear("linear_cpu_bf16")


def writing() -> dict[str, Any]:
    """What the model's own layers write a second, and the lean path."""
    found = json.loads((RESULTS / "writing_cpu.json").read_text(encoding="utf-8"))
    where = {key: found["surroundings"][key] for key in ("device", "threads", "torch")}
    unlike = json.loads((RESULTS / "writing_many_cpu.json").read_text(encoding="utf-8"))["many"]
    many = {
        "many": unlike["nf4"]["answers"],
        "many_mean": unlike["nf4"]["mean_tokens"],
        "many_most": unlike["nf4"]["most_tokens"],
        **{f"{lane}_{how}": rates[how] for lane, rates in unlike.items() for how in ("groups", "joining", "times")},
    }
    told = {key: found[key] for key in ("prompt", "tokens", "turns")}
    return {**where, "table": _written(found["lanes"], ".2f"), **told, **many}


def _written(lanes: dict[str, Any], form: str) -> str:
    """A table: tokens a second by the model's own layers, and by the lean path."""
    names = {"nf4": "4 bits (NF4)"}
    lines = ["| base | answers at once | its own layers | the lean path | times |", "|---|---|---|---|---|"]
    for lane, cases in lanes.items():
        for rows, row in cases.items():
            rates = f"{row['own']:{form}} | {row['lean']:{form}} | {row['times']:.1f}"
            lines.append(f"| {names.get(lane, lane)} | {rows} | {rates} |")
    return "\n".join(lines)


def performance() -> dict[str, Any]:
    numbers = beside_trl("bench_cpu", "performance") | linear("linear_cpu")
    choices = json.loads((RESULTS / "choices_cpu.json").read_text(encoding="utf-8"))
    seconds = choices["step_seconds"]
    for name, case in {
        "apart": "beginnings not shared", "unpacked": "unpacked at each use", "checkpointed": "all layers checkpointed",
        "small": "passes of 512 tokens", "peft": "peft's layers, packed", "padded": "peft's layers, padded 4 x 4",
    }.items():  # fmt: skip
        numbers[f"choice_{name}"] = seconds[case] / seconds["as planned"]
    for name, case in {
        "in": "in the accumulator", "augmented": "in a longer inner dimension", "added": "added apart",
    }.items():  # fmt: skip
        numbers[f"piece_{name}"] = choices["piece_milliseconds"]["float32"][case]
    return numbers


def gpu() -> dict[str, Any]:
    """What was measured on a GPU, on several occasions; see the notes in the file."""
    found = json.loads((RESULTS / "gpu_h200.json").read_text(encoding="utf-8"))
    losses = {name: values for name, values in found["losses"].items() if isinstance(values, list) and name != "steps"}
    own = losses.pop("luthier through peft's layers")
    off = {name: max(abs(a - b) for a, b in zip(values, own, strict=True)) for name, values in losses.items()}
    setting, step, tests, job = found["setting"], found["step"], found["gpu_tests"], found["headline"]
    predicted, held, gate = found["predicted_memory_gib"], found["allocator"]["reserved_gib"], found["fp8_gate"]
    numbers = {
        "device": found["device"], "torch": found["versions"]["torch"], "limit": setting["limit_flops"] / 1e9,
        "limit_rows": setting["limit_rows"], "step_tokens": setting["tokens_a_step"],
        "trained_share": setting["trained_share"], "peft_memory": found["peft_layers_peak_memory_gib"],
        "launches": found["launched"]["launches_of_a_step"], "launched_rate": found["launched"]["tokens_per_second"],
        "busy": step["busy"], "idle": step["waiting"], "profiled": step["milliseconds"], "tests": tests["passed"],
        "tests_failed": tests["failed"], "commit": found["commit"], "attention_commit": found["attention"]["commit"],
        "attention": _attention(found["attention"]), "step_commit": step["commit"], "tests_commit": tests["commit"],
        "tests_later": tests["later"]["passed"], "tests_chosen": tests["later"]["chosen"],
        "gate": ", ".join(f"{share:.2%}" for share in gate["differences"]), "gate_steps": gate["steps"],
        "held_before": held["as torch is"], "held_first": held["recorded at first sight"],
        "held_growing": held["and pieces that grow"], "predicted_6gb": predicted["nf4_6gb"],
        "predicted_3gb": predicted["nf4_3gb"],
        "losses_steps": "steps " + ", ".join(map(str, found["losses"]["steps"])),
        "losses_trl": off.pop("trl"), "losses_off": max(off.values()),
        "predicted": predicted["nf4"],
        "step_kinds": ", ".join(f"{kind} {spent:.1f}" for kind, spent in Counter(step["kinds"]).most_common()),
    }  # fmt: skip
    for name, key in {
        "steps": "steps", "tokens": "num_tokens", "seconds": "train_runtime", "rate": "tokens_per_second",
        "wall": "seconds_until_its_adapter_was_there", "start": "seconds_until_the_run_began", "sizes": "sizes",
        "between": "between_logs", "between_share": "between_logs_share_of_limit", "histograms": "histograms",
        "histogram": "histogram_seconds", "memory": "peak_memory_gib",
    }.items():  # fmt: skip
        numbers[f"job_{name}"] = job[key]
    for row in found["rows"] + found["less_memory"]:
        for name, key in {
            "rate": "tokens_per_second", "memory": "peak_memory_gib",
            "reserved": "reserved_gib", "median": "median_step_seconds", "timed": "timed", "steps": "steps",
            "best": "tokens_per_second_at_the_median", "best_share": "share_of_limit_at_the_median",
        }.items():  # fmt: skip
            numbers[f"{row['lane']}_{name}"] = row[key] * (1000 if name == "median" else 1)
    return numbers | _peers(found["peers"], numbers["nf4_rate"]) | _later_visit()


def _later_visit() -> dict[str, Any]:
    """Of an H100: the whole job, memory on request, and answers."""
    found = json.loads((RESULTS / "gpu_h100.json").read_text(encoding="utf-8"))
    written = json.loads((RESULTS / "writing_h100.json").read_text(encoding="utf-8"))
    job, tests, many = found["headline"], found["gpu_tests"], written["many"]
    began, ready = job["seconds_until_the_run_began"], job["seconds_until_the_model_was_ready"]
    numbers = {
        "device": found["device"], "commit": job["commit"], "wall": job["seconds_until_its_adapter_was_there"],
        "start": began, "loading": ready - began, "compiling": job["seconds_of_compiling_kernels"],
        "seconds": job["train_runtime"], "rate": job["tokens_per_second"], "between": job["between_logs"],
        "between_share": job["between_logs_share_of_limit"], "imports": job["seconds_of_imports"],
        "histogram": job["histogram_seconds"], "memory": job["peak_memory_gib"],
        "overhead": job["train_runtime"] - job["num_tokens"] / job["between_logs"],
        "cold_wall": job["before"]["seconds_until_its_adapter_was_there"], "tests": tests["passed"],
        "tests_failed": tests["failed"],
        "tests_left": tests["chosen"] - tests["passed"] - tests["skipped"] - tests["failed"],
    }  # fmt: skip
    for row in found["rows"]:
        measures = {"rate": "tokens_per_second", "memory": "peak_memory_gib", "off": "largest_loss_difference"}
        numbers |= {f"{row['lane']}_{name}": row[key] for name, key in measures.items()}
    answers = {
        "writing": _written(written["lanes"], ",.0f"), "writing_prompt": written["prompt"],
        "writing_tokens": written["tokens"], "writing_commit": written["surroundings"]["git_commit"][:7],
        "many": many["nf4"]["answers"], "many_mean": many["nf4"]["mean_tokens"],
        "many_most": many["nf4"]["most_tokens"],
    }  # fmt: skip
    for lane, rates in many.items():
        answers |= {f"many_{lane}": rates["joining"], f"many_{lane}_groups": rates["groups"]}
    return {f"h100_{name}": value for name, value in numbers.items()} | answers


def _attention(found: dict[str, Any]) -> str:
    """A table: our attention beside torch's flash kernel."""
    lines = ["| documents | tokens | flash, forward | ours | flash, backward | ours |", "|---|---|---|---|---|---|"]
    for row in found["microseconds"]:
        times = [row[f"{who}_{half}"] for half in ("forward", "backward") for who in ("flash", "ours")]
        lines.append(f"| {row['documents']} | {row['tokens']:,} | " + " | ".join(f"{x:,.0f} us" for x in times) + " |")
    return "\n".join(lines)


def _peers(found: dict[str, Any], ours: float) -> dict[str, Any]:
    """A table of the other systems, and how often ours is as fast."""
    titles = {
        "trl": "TRL, defaults", "trl-tuned": "TRL, tuned", "trl-liger": "TRL, tuned, Liger's kernels",
        "unsloth": "Unsloth, as its notebooks do it", "unsloth-best": "Unsloth, best flags",
    }  # fmt: skip
    lines = ["| system | tokens a second | memory |", "|---|---|---|"]
    times = {}
    for row in found["rows"]:
        rate = row["tokens_per_second"]
        times[f"over_{row['part'].replace('-', '_')}"] = ours / rate
        lines.append(f"| {titles[row['part']]} | {rate:,.0f} | {row['peak_memory_gib']:.1f} GiB |")
    return {"peers": "\n".join(lines), "peers_timed": found["timed"], "peers_steps": found["steps"], **times}


def draw(rows: list[dict[str, Any]], drawn_as: str, of: str) -> None:
    """Rates with their spread, and all losses in one picture."""
    colours = [BLUE, TEAL, AMBER, GREY]
    with picture(drawn_as, 1, 2, height=3.0) as (_, (rates, losses)):
        names = [f"{row['system']} ({row['lane']})" for row in rows]
        values = [row["tokens_per_second"] for row in rows]
        spread = [
            [value - min(row["all_tokens_per_second"]) for value, row in zip(values, rows, strict=True)],
            [max(row["all_tokens_per_second"]) - value for value, row in zip(values, rows, strict=True)],
        ]
        rates.barh(names, values, color=colours, xerr=spread, ecolor="#1e293b", height=0.6)
        rates.invert_yaxis()
        rates.grid(axis="y", visible=False)
        rates.set(xlabel="tokens a second")
        for row, colour, width in zip(rows, colours, (7, 5, 3, 1.2), strict=True):
            steps = range(1, len(row["losses"]) + 1)
            losses.plot(steps, row["losses"], color=colour, lw=width, label=f"{row['system']} ({row['lane']})")
        losses.set(xlabel="optimizer step", ylabel=f"loss (nats a {of})")
        losses.legend(fontsize=8)
