r"""The headline job on one GPU, measured: Luthier beside what else is installed.

    python benchmarks/gpu.py [--only PART]... [--minutes 9] [--json FILE] [--python unsloth=ITS_ENVIRONMENT/bin/python]
    python benchmarks/gpu.py --toy          the same on any machine, in a size that says nothing about speed

The model has the exact shape of Llama-3.2-1B with random weights, which cost what trained ones cost; the rows are as
many and as long as those of python_code_instructions_18k (about 220 tokens, 65 % of them trained), their text is
Python's own library. Nothing is fetched. Each part runs in a process of its own:

    kernels          the tests of the kernels and of the CUDA device; a speed with wrong numbers is none
    limit            how fast the card multiplies the model's matrices, by the number of rows
    luthier          QLoRA (exact NF4) on the lean path            luthier-torch  the same without kernels
    luthier-6gb      the same, asked to hold 6 GB (`memory_gib`)   luthier-3gb    3 GB
    luthier-peft     the same through peft's layers                luthier-bf16   LoRA on bfloat16 weights
    luthier-fp8      the same on 8-bit floats, beside luthier-bf16; its share is that of the bfloat16 limit
    fp8-gate         held-out loss on 8-bit floats beside bfloat16, three seeds: fails above 0.3 % in any of them
    trl ... unsloth-best    see luthier.bench.peers
    headline         the whole job, three epochs with the guide's settings, timed from the process's start: with its
                     log, checkpoints and adapter, without answers to prompts in between

`--load-together` loads the other systems side by side and lets them train in turns, each alone on the card: several
minutes less where libraries take most of the time. What a run took is then its loading, beside others, and its turn.

Every system trains the same examples in each step, from the same adapter; losses are to be equal up to rounding, but
for those of 8-bit floats, which `fp8-gate` judges (on random weights: those of a real model may have larger outliers).
The first 50 steps are not counted. A part whose libraries are missing is named under `missing`, one that fails under
`failed`, one that time has run out for under `skipped`: nothing stands in place of a measurement. The file is written
after each part. Exits with 1 when one failed.

Not covered: repeats and turns (run it again), several GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from headline import LLAMA_3_2_1B, ROWS, TOY, job_keys, write_rows

from luthier.bench.base import make_base
from luthier.bench.compare import row, run_arm
from luthier.bench.turn import Turn
from luthier.errors import Problem, RunError
from luthier.machine.libraries import library_output_to
from luthier.machine.probe import probe

ROOT = Path(__file__).resolve().parents[1]
LIMIT_ROWS = (1024, 3520, 8192)
NEEDS = {
    "kernels": ("pytest", "triton"), "limit": (), "luthier": (), "luthier-6gb": (), "luthier-3gb": (),
    "luthier-torch": (), "luthier-peft": (), "luthier-bf16": (), "luthier-fp8": (), "fp8-gate": (), "trl": ("trl",),
    "trl-tuned": ("trl",), "trl-packed": ("trl", "flash_attn"), "trl-liger": ("trl", "liger_kernel"),
    "unsloth": ("trl", "unsloth"), "unsloth-best": ("trl", "unsloth"), "headline": (),
}  # fmt: skip
"""Parts in their order, and the packages they need."""
OTHERS = ("trl", "unsloth")
"""Systems that may stand in environments of their own: they ask for other versions of what they share."""
BFLOAT16 = ("luthier-bf16", "luthier-fp8")
"""Parts whose frozen weights come from bfloat16 files as they are."""
EIGHT_BITS = ("luthier-fp8", "fp8-gate")
GATE, GATE_SEEDS, GATE_STEPS, GATE_ROWS, GATE_EVAL_ROWS = 0.003, (1, 2, 3), 40, 1024, 128
"""Largest relative difference of held-out losses that 8-bit floats may make, and what it is measured with."""
PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes", "trl", "unsloth", "liger-kernel", "flash-attn")


@dataclass
class Report:
    """What is known so far, and where it is written."""

    file: Path | None
    deadline: float
    content: dict[str, Any] = field(default_factory=lambda: {"missing": {}, "failed": {}, "skipped": [], "rows": []})

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def write(self) -> None:
        """To the file, if there is one."""
        if self.file:
            self.file.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")

    def part(self, name: str, work: Callable[[], None]) -> bool:
        """Do one part, unless time has run out; its failure is written down and does not end the others."""
        if self.left() <= 0:
            self.content["skipped"].append(name)
        else:
            print(f"{name} ...", flush=True)
            started = time.monotonic()
            try:
                work()
            except (RunError, subprocess.SubprocessError) as error:
                why = error.problems[0].found if isinstance(error, RunError) else str(error).splitlines()[0]
                self.content["failed"][name] = why
                print(f"  failed: {why}", flush=True)
            print(f"  {time.monotonic() - started:.0f} s", flush=True)
        self.write()
        return name not in self.content["failed"] and name not in self.content["skipped"]


def last_words(ended: subprocess.CompletedProcess[str]) -> str:
    """The last line of a process that failed; one that is killed leaves none."""
    return (ended.stderr.strip().splitlines() or [f"ended with code {ended.returncode}"])[-1]


def main() -> None:
    """Run all that is installed, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", choices=NEEDS, help="this part; may be given several times")
    parser.add_argument("--minutes", type=float, default=9.0, help="no part goes on after that")
    parser.add_argument("--steps", type=int, default=80, help="optimizer steps of a run")
    parser.add_argument("--warm-up", type=int, default=50, help="steps at the start of a run that are not counted")
    parser.add_argument("--toy", action="store_true", help="a tiny model, a few steps, any device")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--load-together", action="store_true", help="other systems load at once and train in turns")
    parser.add_argument("--folder", type=Path, help="work there and leave it; a model that lies there is used again")
    parser.add_argument(
        "--python", action="append", default=[], type=other_python, metavar="SYSTEM=FILE",
        help=f"the interpreter of {' or '.join(OTHERS)}, where another than this one has it",
    )  # fmt: skip
    asked = parser.parse_args()
    if asked.toy:
        asked.steps, asked.warm_up = 3, 1
    if asked.warm_up >= asked.steps:
        parser.error(f"--warm-up {asked.warm_up} leaves none of {asked.steps} steps")
    import torch

    if not asked.toy and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --toy runs without one")
    report = Report(asked.json, time.monotonic() + 60 * asked.minutes)
    asked.python = dict(asked.python)
    report.content |= {"toy": asked.toy, "versions": versions(sys.executable)}
    report.content |= {f"versions of {system}": versions(python) for system, python in asked.python.items()}
    parts, in_8_bits = [], probe().supports_fp8
    for name in asked.only or NEEDS:
        found = installed(asked.python.get(system_of(name), sys.executable))
        if name in EIGHT_BITS and not in_8_bits:
            report.content["missing"][name] = "this card does not multiply 8-bit floats"
        elif lacking := [package for package in NEEDS[name] if package not in found]:
            report.content["missing"][name] = f"{', '.join(lacking)} not installed"
        else:
            parts.append(name)
    with nullcontext(asked.folder) if asked.folder else tempfile.TemporaryDirectory(prefix="luthier-gpu-") as folder:
        run(parts, asked, report, Path(folder))
    report.write()
    print(table(report.content))
    sys.exit(1 if report.content["failed"] else 0)


def other_python(words: str) -> tuple[str, str]:
    """`unsloth=FILE`, in two."""
    system, _, python = words.partition("=")
    if system not in OTHERS or not os.access(python, os.X_OK):
        raise argparse.ArgumentTypeError(f"{words}: write {'|'.join(OTHERS)}=FILE, FILE being a Python interpreter")
    return system, python


def system_of(part: str) -> str:
    """`trl` of `trl-tuned`."""
    return part.partition("-")[0]


def arm_of(part: str) -> str:
    """What `luthier.bench.arms` calls it: the frozen weights are the request's affair."""
    return "luthier" if part == "luthier-bf16" else part


@cache
def installed(python: str) -> frozenset[str]:
    """The packages that are needed by parts and that an interpreter can import."""
    names = sorted({name for needed in NEEDS.values() for name in needed})
    program = "import sys\nfrom importlib.util import find_spec\nprint(*[n for n in sys.argv[1:] if find_spec(n)])"
    return frozenset(subprocess.run([python, "-c", program, *names], capture_output=True, text=True).stdout.split())


def versions(python: str) -> dict[str, str]:
    """Of what is compared, as far as an interpreter has it."""
    program = (
        "import importlib.metadata as m, json, sys\nfound = {}\nfor name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n    except m.PackageNotFoundError: pass\nprint(json.dumps(found))"
    )
    ended = subprocess.run([python, "-c", program, *PACKAGES], capture_output=True, text=True, check=True)
    return dict(json.loads(ended.stdout))


def run(parts: list[str], asked: argparse.Namespace, report: Report, folder: Path) -> None:
    """Do the parts that can be done."""
    if "kernels" in parts:
        report.part("kernels", lambda: kernels(report, toy=asked.toy))
    if parts in ([], ["kernels"]):
        return
    print("making the model and the rows", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / "base"
    dtype = "float32" if asked.toy else "bfloat16"
    if not (base / "config.json").is_file():
        with library_output_to(Path(os.devnull)):
            make_base(base, TOY if asked.toy else LLAMA_3_2_1B, 600 if asked.toy else 32_000, dtype)
    if "limit" in parts:
        report.part("limit", lambda: limit(report, base, dtype, toy=asked.toy))
    rows = folder / "rows.jsonl"
    if not rows.is_file():
        write_rows(rows, base, 64 if asked.toy else ROWS)
    trained = [name for name in parts if name not in ("kernels", "limit", "fp8-gate", "headline")]
    if "fp8-gate" in parts:
        report.part("fp8-gate", lambda: fp8_gate(asked, report, folder / "gate", base))
    for lane, names in (
        ("nf4", [name for name in trained if name not in BFLOAT16]),
        ("bf16", [name for name in trained if name in BFLOAT16]),
    ):
        if names:
            room = folder / lane
            room.mkdir(exist_ok=True)
            wanted = {"overrides": job_keys(base, rows, asked.steps, lane), "base": str(base)}
            compare(names, lane, asked, report, room, wanted)
    if "headline" in parts:
        report.part("headline", lambda: whole_job(asked, report, folder, job_keys(base, rows, asked.steps, "nf4")))


def compare(
    names: list[str], lane: str, asked: argparse.Namespace, report: Report, folder: Path, wanted: dict[str, Any]
) -> None:
    """The runs of one lane: the same rows and the same adapter for all."""
    (folder / "request.json").write_text(json.dumps(wanted), encoding="utf-8")
    facts: dict[str, Any] = {}
    reference: list[float] = []

    def prepare() -> None:
        facts.update(run_arm("prepare", folder, report.left())[0])

    if not report.part(f"prepare {lane}", prepare):
        if f"prepare {lane}" in report.content["failed"]:
            report.content["failed"] |= dict.fromkeys(names, "its rows could not be prepared")
        else:
            report.content["skipped"] += names
        return
    report.content.setdefault("settings", {})[lane] = {
        "steps": len(facts["tokens"]),
        "warm_up_steps": asked.warm_up,
        "tokens_per_row": sum(facts["tokens"]) / len(facts["tokens"]) / 16,
        "trained_share": sum(facts["trained_tokens"]) / sum(facts["tokens"]),
        **{key: facts[key] for key in ("dtype", "plan", "limit_flops", "surroundings")},
    }

    def start(name: str, turn: Path | None = None) -> tuple[dict[str, Any], float]:
        return run_arm(
            arm_of(name), folder, report.left(), asked.python.get(system_of(name), sys.executable), turn=turn
        )

    def measure(name: str, run: Callable[[], tuple[dict[str, Any], float]]) -> None:
        result, seconds = run()
        reference[:] = reference or result["losses"]
        found = row(arm_of(name), [result | {"wall_seconds": seconds}], facts, asked.warm_up, reference)
        report.content["rows"].append({"part": name, **asdict(found)})

    together = [name for name in names if asked.load_together and system_of(name) in OTHERS]
    for name in names:
        if name not in together:
            report.part(name, lambda name=name: measure(name, lambda: start(name)))
    with ThreadPoolExecutor(max(1, len(together))) as pool:
        turns = {name: Turn(folder / f"{name}.turn") for name in together}
        runs = {name: pool.submit(start, name, turn.place) for name, turn in turns.items()}
        while not all(runs[name].done() or turn.is_awaited for name, turn in turns.items()):
            time.sleep(0.1)
        for name, turn in turns.items():
            report.part(name, lambda name=name, turn=turn: measure(name, lambda: turn.taken(runs[name])))


def fp8_gate(asked: argparse.Namespace, report: Report, folder: Path, base: Path) -> None:
    """The loss on held-out rows after the same steps in bfloat16 and in 8-bit floats, for each seed."""
    folder.mkdir(exist_ok=True)
    write_rows(folder / "rows.jsonl", base, 64 if asked.toy else GATE_ROWS)
    overrides = job_keys(base, folder / "rows.jsonl", asked.steps, "bf16")
    steps, held_out = (asked.steps, 16) if asked.toy else (GATE_STEPS, GATE_EVAL_ROWS)
    keys = [f"max_steps={steps}", f"eval_steps={steps}", f"val_set_size={held_out}", "learning_rate=1e-3"]
    wanted = {"overrides": overrides, "base": str(base), "seeds": GATE_SEEDS, "keys": keys}
    (folder / "request.json").write_text(json.dumps(wanted), encoding="utf-8")
    result, seconds = run_arm("fp8-gate", folder, report.left())
    losses = result["eval_losses"]
    off = [abs(ours / plain - 1) for ours, plain in zip(losses["fp8"], losses["default"], strict=True)]
    passed = all(share <= GATE for share in off)  # false for nan
    report.content["fp8_gate"] = {
        "passed": passed, "limit": GATE, "seeds": GATE_SEEDS, "steps": steps, "seconds": seconds,
        "eval_losses": losses, "differences": off,
    }  # fmt: skip
    if not passed:
        fix = "train without base_precision: fp8"
        found = f"held-out losses differ by {', '.join(f'{share:.2%}' for share in off)}; {GATE:.1%} is allowed"
        raise RunError(Problem("E-RUN-006", found, fix))


def whole_job(asked: argparse.Namespace, report: Report, folder: Path, overrides: list[str]) -> None:
    """All steps of the headline job by the command line, as a user starts it: config, rows and model are read anew."""
    output = folder / "headline"
    keys = [key for key in overrides if not key.startswith("max_steps=")]
    keys += [f"output_dir={output}", f"max_steps={asked.steps}" if asked.toy else "num_train_epochs=3"]
    keys += ["sample_prompts=[]"]  # nobody else answers prompts meanwhile
    started = time.monotonic()
    command = [sys.executable, "-m", "luthier", "train", "--overwrite", *keys]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=report.left())
    seconds = time.monotonic() - started
    if ended.returncode:
        raise subprocess.SubprocessError(last_words(ended))
    lines = (output / "events.jsonl").read_text(encoding="utf-8").splitlines()
    found = next(event for event in map(json.loads, reversed(lines)) if event["event"] == "run_finished")
    kept = ("step", "num_tokens", "train_runtime", "train_loss", "peak_memory_gib")
    report.content["headline"] = {"wall_seconds": seconds, **{name: found[name] for name in kept}}


def kernels(report: Report, *, toy: bool) -> None:
    """The tests, as pytest sees them: on the device, or two files of them in the interpreter."""
    tests = ROOT / "tests"
    where = [tests / "model" / "kernels" / f"test_{name}.py" for name in ("gate", "rope")]
    marks = [] if toy else ["-m", "gpu"]
    if not toy:
        where = [tests / "model" / "kernels", tests / "gpu"]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", *marks, *map(str, where)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=report.left())
    output = ended.stdout.splitlines()[-20:]
    report.content["kernels"] = {"passed": ended.returncode == 0, "output": output}
    if ended.returncode:
        raise subprocess.SubprocessError(" ".join(output[-3:]) or last_words(ended))


def limit(report: Report, base: Path, dtype: str, *, toy: bool) -> None:
    """Floating point operations a second, by rows, in a process of its own."""
    program = (
        "import json, sys, torch; from transformers import AutoConfig; from luthier.bench.limit import matmul_limit\n"
        "from luthier.machine.probe import best_device\n"
        "config, dtype = AutoConfig.from_pretrained(sys.argv[1]), getattr(torch, sys.argv[2])\n"
        "print(json.dumps({n: matmul_limit(config, dtype, int(n), best_device()) for n in sys.argv[3:]}))"
    )
    sizes = [str(n) for n in ((64,) if toy else LIMIT_ROWS)]
    command = [sys.executable, "-c", program, str(base), dtype, *sizes]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=report.left())
    if ended.returncode:
        raise subprocess.SubprocessError(last_words(ended))
    report.content["limit_flops_by_rows"] = json.loads(ended.stdout)


def table(content: dict[str, Any]) -> str:
    """What there is, for a person."""
    lines = ["", *(f"missing  {name}: {why}" for name, why in content["missing"].items())]
    lines += [f"skipped  {name}: no time left" for name in content["skipped"]]
    lines += [f"failed   {name}: {why}" for name, why in content["failed"].items()]
    if content.get("kernels", {}).get("passed"):
        lines.append("kernels  passed")
    if gate := content.get("fp8_gate"):
        lines.append(f"fp8      held-out losses differ by {', '.join(f'{share:.3%}' for share in gate['differences'])}")
    if job := content.get("headline"):
        lines.append(f"headline {job['step']:,} steps, {job['num_tokens']:,} tokens: {job['wall_seconds']:.0f} s")
    for rows, rate in content.get("limit_flops_by_rows", {}).items():
        lines.append(f"limit    {float(rate) / 1e9:,.1f} billion operations a second at {rows} rows")
    lines += ["", f"{'':16} {'tokens/s':>10} {'of limit':>8} {'wall s':>7} {'GiB':>6}  loss, and largest difference"]
    for found in content["rows"]:
        losses = f"{found['losses'][0]:.3f} -> {found['losses'][-1]:.3f}  {found['largest_loss_difference']:.1g}"
        lines.append(
            f"{found['part']:16} {found['tokens_per_second']:10,.0f} {found['share_of_limit']:8.0%} "
            f"{found['wall_seconds']:7.1f} {found['peak_memory_gib']:6.2f}  {losses}"
        )
    if content["toy"]:
        lines += ["", "a toy: no speed in it means anything"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
