"""Where the time of a step goes on a GPU: attention, products, and the kernels of recorded steps.

    python benchmarks/gpu_parts.py [--only PART]... [--folder FOLDER] [--json FILE]

    attention   one layer's, of short documents and long ones: our kernels beside torch's flash kernel, each checked
                against float64. Flash adds in one order, as it has to, and what it leaves to be done is counted: sums
                over grouped heads, copies into the gradient of q|k|v
    products    each of a layer and of its adapters, at the rows of a usual pass
    step        recorded steps of the headline job under torch.profiler: the kernels by kind, and how long the device
                waited. The profiler slows the host, so the waiting is an upper bound

Times are medians of replays of a CUDA graph, between two events of the device; those of `step` are the profiler's.
`--folder` is that of benchmarks/gpu.py, whose model and rows are used again. Not covered: other cards at the same time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from headline import LLAMA_3_2_1B, ROWS, job_keys, write_rows
from torch import Tensor

from luthier.bench.base import make_base

HEADS, KEY_HEADS, SIZE = 32, 8, 64
PASS_ROWS, RANK = 3712, 16
STACKS = {"q|k|v": (3072, 2048, 3), "o": (2048, 2048, 1), "gate|up": (16384, 2048, 2), "down": (2048, 8192, 1)}
"""Outputs, inputs, members."""
STEPS, WARM_UP = 8, 170
KINDS = {
    "attention": ("flash_", "_attend", "_backward_queries", "_backward_keys"), "products": ("nvjet", "gemm", "cutlass"),
    "splits of products": ("splitkreduce",), "cross-entropy": ("_cross_entropy",), "copies of adapters": ("_copy",),
    "rotation": ("_rotate",), "update": ("_adamw",), "norms and SwiGLU": ("_forward", "_backward"),
}  # fmt: skip
"""What kernels' names begin with or contain; the first that fits counts."""


def microseconds(work: Callable[[], object], calls: int = 10) -> float:
    """Of one call."""
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            work()
    found = []
    for _ in range(15):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) * 1000 / calls)
    return statistics.median(found)


def documents() -> dict[str, list[int]]:
    """Lengths, by what they are called."""
    rng = random.Random(3)
    usual = [round(rng.lognormvariate(0, 0.4) * 203) for _ in range(16)]
    return {
        "16 usual": usual, "32 of half the length": [n // 2 for n in usual] * 2, "4 of 1,000": [1000] * 4,
        "1 of 4,096": [4096],
    }  # fmt: skip


def attention() -> list[dict[str, Any]]:
    """A row for each set of documents."""
    from luthier.model.kernels.attention import attend, attend_backward
    from luthier.model.lean.attention import Flash

    rows = []
    for name, lengths in documents().items():
        offsets = tuple(accumulate(lengths, initial=0))
        tokens, scale = offsets[-1], SIZE**-0.5
        starts = torch.tensor([*offsets, *[tokens] * (17 - len(offsets))], dtype=torch.int32, device="cuda")
        qkv = torch.randn(tokens, HEADS + 2 * KEY_HEADS, SIZE, device="cuda", dtype=torch.bfloat16)
        heads, grad = qkv.split([HEADS, KEY_HEADS, KEY_HEADS], 1), torch.randn_like(qkv[:, :HEADS])
        wanted, place = exact(heads, grad, offsets, scale), torch.empty_like(qkv)
        out, flash = place.split([HEADS, KEY_HEADS, KEY_HEADS], 1), Flash(scale, None)
        inputs = {"cu_seq_lens": starts, "longest": 512 if max(lengths) <= 512 else max(lengths)}
        row: dict[str, Any] = {"documents": len(lengths), "tokens": tokens, "which": name}
        found, kept = flash.forward(heads, inputs)
        flash.backward(grad, heads, kept, inputs, out)
        row["flash_off"] = distance([found, *out], wanted)
        row["flash_forward"] = microseconds(lambda h=heads, i=inputs, f=flash: f.forward(h, i))
        row["flash_backward"] = microseconds(
            lambda h=heads, g=grad, k=kept, i=inputs, o=out, f=flash: f.backward(g, h, k, i, o)
        )
        place.fill_(torch.nan)
        found, sums = attend(heads, starts, scale)
        last = (starts, scale, None, out)
        attend_backward(grad, heads, found, sums, *last)
        row["ours_off"] = distance([found, *out], wanted)
        row["ours_forward"] = microseconds(lambda h=heads, s=starts, c=scale: attend(h, s, c))
        row["ours_backward"] = microseconds(
            lambda h=heads, g=grad, f=found, s=sums, x=last: attend_backward(g, h, f, s, *x)
        )
        rows.append(row)
    return rows


def exact(heads: Sequence[Tensor], grad_THS: Tensor, offsets: Sequence[int], scale: float) -> list[Tensor]:
    """Output and gradients in float64, document by document."""
    query, key, value = (x.double().detach().requires_grad_() for x in heads)
    groups, outputs = query.shape[1] // key.shape[1], []
    for start, end in pairwise(offsets):
        q, k, v = (x[start:end].transpose(0, 1) for x in (query, key, value))
        k, v = (x.repeat_interleave(groups, 0) for x in (k, v))
        ahead = torch.ones(end - start, end - start, dtype=torch.bool, device=q.device).triu(1)
        weights = (q @ k.transpose(1, 2) * scale).masked_fill(ahead, float("-inf")).softmax(-1)
        outputs.append((weights @ v).transpose(0, 1))
    output = torch.cat(outputs)
    return [output.detach(), *torch.autograd.grad(output, (query, key, value), grad_THS.double())]


def distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest relative distance of two tensors."""
    return float(torch.stack([(x.double() - y).norm() / y.norm() for x, y in zip(found, wanted, strict=True)]).max())


def products() -> list[dict[str, Any]]:
    """A row for each stack of a layer: what it takes with and without its adapters, forward and backward."""

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, device="cuda", dtype=torch.bfloat16) * 0.05

    rows = []
    for name, (outputs, inputs, members) in STACKS.items():
        rank = RANK * members
        x, y, w = normal(PASS_ROWS, inputs), normal(PASS_ROWS, outputs), normal(outputs, inputs)
        z, a, b = normal(PASS_ROWS, rank), normal(rank, inputs), normal(outputs, rank)
        timed = {
            "forward": lambda x=x, w=w: x @ w.T,
            "backward": lambda y=y, w=w: y @ w,
            "forward_with_adapters": lambda x=x, w=w, a=a, b=b: ((x @ a.T) @ b.T).addmm_(x, w.T),
            "backward_with_adapters": lambda y=y, w=w, a=a, b=b: ((y @ b) @ a).addmm_(y, w),
            "gradients_of_adapters": lambda x=x, y=y, z=z: (z.T @ x, y.T @ z),
        }
        work = 2 * PASS_ROWS * outputs * inputs
        row: dict[str, Any] = {"stack": name, "rows": PASS_ROWS, **{n: microseconds(f, 20) for n, f in timed.items()}}
        rows.append(row | {"operations_a_second": 2e6 * work / (row["forward"] + row["backward"])})
    return rows


def step(folder: Path) -> dict[str, Any]:
    """Milliseconds of a recorded step by kind of kernel, and those between kernels."""
    from torch.profiler import ProfilerActivity, profile

    from luthier import api
    from luthier.bench.setting import RUN_KEYS
    from luthier.config.load import changed
    from luthier.events.types import Log

    keys = job_keys(folder / "base", folder / "rows.jsonl", WARM_UP + STEPS, "nf4")
    done, profiler = 0, profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
    own = changed([*keys, *RUN_KEYS], f"output_dir={folder / 'profiled'}")
    for event in api.train({}, own, overwrite=True):
        done += isinstance(event, Log)
        if isinstance(event, Log) and done == WARM_UP:
            torch.cuda.synchronize()
            profiler.start()
    torch.cuda.synchronize()
    profiler.stop()
    with tempfile.TemporaryDirectory() as room:
        profiler.export_chrome_trace(f"{room}/trace.json")
        trace = json.loads(Path(f"{room}/trace.json").read_text(encoding="utf-8"))
    return by_kind(trace["traceEvents"])


def by_kind(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a profiler's events say of steps, each from one update to the next: medians of milliseconds.

    One that is launched or recorded lasts longer; the median leaves it out.
    """
    kernels = sorted((e for e in events if e.get("cat") == "kernel"), key=lambda e: e["ts"])
    ends = [number for number, kernel in enumerate(kernels) if kind_of(kernel["name"]) == "update"]
    steps = [kernels[start + 1 : end + 1] for start, end in pairwise(ends)]
    spans = [(_end_of(step[-1]) - _end_of(kernels[start])) / 1000 for step, start in zip(steps, ends, strict=False)]
    busy = [sum(kernel["dur"] for kernel in step) / 1000 for step in steps]
    kinds: dict[str, list[float]] = {}
    for step in steps:
        spent: Counter[str] = Counter()
        for kernel in step:
            spent[kind_of(kernel["name"])] += kernel["dur"] / 1000
        for kind in (*KINDS, "others"):
            kinds.setdefault(kind, []).append(spent[kind])
    return {
        "steps": len(steps),
        "milliseconds": statistics.median(spans),
        "busy": statistics.median(busy),
        "waiting": statistics.median(span - b for span, b in zip(spans, busy, strict=True)),
        "kernels": statistics.median(len(step) for step in steps),
        "kinds": {kind: statistics.median(spent) for kind, spent in kinds.items()},
    }


def _end_of(kernel: dict[str, Any]) -> float:
    return float(kernel["ts"] + kernel["dur"])


def kind_of(name: str) -> str:
    """The kind of a kernel, by its name."""
    name = name.lower()
    for kind, words in KINDS.items():
        if any(name.startswith(word) if word.startswith("_") else word in name for word in words):
            return kind
    return "others"


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", choices=("attention", "products", "step"))
    parser.add_argument("--folder", type=Path, help="a folder of benchmarks/gpu.py, whose model and rows are used")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    parts = asked.only or ("attention", "products", "step")
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    if "attention" in parts:
        found["attention"] = attention()
    if "products" in parts:
        found["products"] = products()
    if "step" in parts:
        folder = asked.folder or Path(tempfile.mkdtemp(prefix="luthier-gpu-"))
        if not (folder / "base" / "config.json").is_file():
            make_base(folder / "base", LLAMA_3_2_1B, 32_000, "bfloat16")
        if not (folder / "rows.jsonl").is_file():
            write_rows(folder / "rows.jsonl", folder / "base", ROWS)
        found["step"] = step(folder)
    text = json.dumps(found, indent=1)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
