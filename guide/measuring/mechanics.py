"""Experiments on how it works: masks, packing, gradients, four bits, exact resume, and the panel."""

from __future__ import annotations

import hashlib
import math
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import luthier
from luthier.config.plan import Plan
from luthier.data.loader import collate, split
from luthier.data.order import step_rows
from luthier.data.prepare import prepare
from luthier.events.read import read
from luthier.events.types import Evaluated, Gradients, Log
from luthier.model.forward import inference, summed_loss
from luthier.model.hub import load_config, load_tokenizer
from luthier.monitor.state import RunState, fold
from measuring.drawing import AMBER, BLUE, GREY, INK, RED, TEAL, picture, save_panel
from measuring.runs import WORK, config, of, run

Numbers = dict[str, Any]
PANEL_RUN = "python-functions"


def _plan(**sections: dict[str, Any]) -> tuple[Plan, Any, Any]:
    """Plan, tokenizer and rows of a run that is not started."""
    plan, missing = luthier.plan(config("planned", **sections))
    assert not missing, missing
    tokenizer = load_tokenizer(plan.config.model, load_config(plan.config.model))
    return plan, tokenizer, prepare(plan.config, tokenizer)


def mask() -> Numbers:
    """One row as training sees it: every token a box, trained ones filled."""
    _, tokenizer, data = _plan()
    row = min((data.train.members(i)[0] for i in range(200)), key=lambda row: abs(len(row.input_ids) - 62))
    with picture("mask", height=2.0) as (_, (axes,)):
        axes.axis("off")
        x, y, width = 0.0, 0.0, 104.0
        for token, trained in zip(row.input_ids.tolist(), row.trained.tolist(), strict=True):
            text = tokenizer.decode([token]).replace("\n", "↵").replace(" ", "·")
            room = max(1.6, len(text)) + 0.9
            if x + room > width:
                x, y = 0.0, y - 1.6
            face, edge = ("#dcfce7", "#15803d") if trained else ("#f1f5f9", GREY)
            last = token == tokenizer.eos_token_id
            box = {
                "boxstyle": "round,pad=0.18",
                "facecolor": face,
                "edgecolor": edge,
                "linewidth": 2.2 if last else 0.7,
            }
            axes.text(x + room / 2, y, text, family="DejaVu Sans Mono", fontsize=8, ha="center", va="center", bbox=box,
                      fontweight="bold" if last else "normal")  # fmt: skip
            x += room
        axes.set(xlim=(-1, width + 1), ylim=(y - 1.2, 1.2))
    report = data.report
    return {
        "tokens": len(row.input_ids),
        "trained": int(row.trained.sum()),
        "share_of_trained": report.trained_tokens / report.tokens,
        "bos_share": report.bos_share,
        "eos_share": report.eos_share,
    }


def _passes(rows: Any, indices: Any, plan: Plan) -> list[Any]:
    """These rows in passes of four at most, within the plan's token budget."""
    return [collate(rows, group, plan) for group in split(rows, indices, plan, 4)]


def packing() -> Numbers:
    """One step, padded and packed: what is computed, and that the loss is the same."""
    plan, _, data = _plan(training={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4})
    plan = replace(plan, share_beginnings=False)  # packing alone: what rows share is another saving
    rows = step_rows(len(data.train), plan.examples_per_step, plan.config.training.seed, 0)
    ways = {"padded": plan.config.with_values({"training.packing": False}), "packed": plan.config}
    model = AutoModelForCausalLM.from_pretrained(plan.config.model.model_name_or_path, dtype=torch.float32)
    numbers: Numbers = {"rows": len(rows)}
    groups: dict[str, list[Any]] = {}
    for name, settings in ways.items():
        changed = replace(plan, config=settings)
        groups[name] = _passes(data.train, rows, changed)
        model.set_attn_implementation("luthier_documents" if name == "packed" else "sdpa")
        with inference(model):
            sums = [summed_loss(model, batch).item() for batch in groups[name]]
        counts = [batch.num_trained for batch in groups[name]]
        computed = sum(batch.input_ids_BT.numel() for batch in groups[name])
        real = sum(batch.num_tokens for batch in groups[name])
        numbers |= {f"{name}_passes": len(counts), f"{name}_computed": computed, "real_tokens": real,
                    f"{name}_padding": 1 - real / computed, f"{name}_loss": sum(sums) / sum(counts)}  # fmt: skip
        if name == "padded":
            # in the order of the rows, as a loop that does not sort by length would take them
            plain = [_passes(data.train, rows[i : i + 4], changed)[0] for i in range(0, len(rows), 4)]
            with inference(model):
                sums = [summed_loss(model, batch).item() for batch in plain]
            counts = [batch.num_trained for batch in plain]
            numbers["mean_of_means"] = sum(s / n for s, n in zip(sums, counts, strict=True)) / len(counts)
            numbers["fewest_trained"], numbers["most_trained"] = min(counts), max(counts)
            unsorted = sum(batch.input_ids_BT.numel() for batch in plain)
            numbers |= {"unsorted_computed": unsorted, "unsorted_padding": 1 - real / unsorted}
    numbers["loss_difference"] = abs(numbers["packed_loss"] - numbers["padded_loss"])
    numbers["mean_difference"] = abs(numbers["mean_of_means"] - numbers["padded_loss"])
    bars = {
        "rows in random order, padded": numbers["unsorted_computed"],
        "rows sorted by length, padded": numbers["padded_computed"],
        "packed": numbers["packed_computed"],
    }
    with picture("packing", height=2.2) as (_, (axes,)):
        names = list(bars)[::-1]
        axes.barh(names, [bars[n] for n in names], color="#e2e8f0", edgecolor=GREY, hatch="///")
        axes.barh(names, [numbers["real_tokens"]] * 3, color=BLUE)
        for name in names:
            share = 1 - numbers["real_tokens"] / bars[name]
            axes.text(bars[name], name, f"  {share:.0%} padding", va="center")
        axes.set(xlabel="tokens computed in one optimizer step", xlim=(0, max(bars.values()) * 1.25))
        axes.grid(axis="y", visible=False)
    return numbers


def gradients() -> Numbers:
    """Length of the gradient at each step, and how it divides among the layers; the run that the panel shows."""
    events = run(
        PANEL_RUN,
        evaluation={"eval_steps": 22},
        logging={"histogram_steps": 5},
        training={"learning_rate": 3e-3, "min_learning_rate": 3e-4},
    )
    logs, flows = of(events, Log), of(events, Gradients)
    layers = list(flows[0].norms)
    with picture("gradients", 2, 1, height=7.2, heights=(1, 2)) as (figure, (above, below)):
        above.plot([e.step for e in logs], [e.grad_norm for e in logs], color=BLUE)
        above.axhline(1.0, color=RED, linestyle="--")
        above.text(logs[-1].step, 1.03, "max_grad_norm", ha="right", color=RED)
        above.set(xlabel="optimizer step", ylabel="length of the gradient", ylim=(0, None))
        grid = [[math.log10(max(flow.norms[layer], 1e-6)) for flow in flows] for layer in layers]
        image = below.imshow(grid, aspect="auto", cmap="Blues", interpolation="nearest",
                             extent=(0, flows[-1].step, len(layers), 0))  # fmt: skip
        names = [layer.replace("layers.", "").replace("self_attn.", "").replace("mlp.", "") for layer in layers]
        below.set_yticks([i + 0.5 for i in range(len(layers))], names, fontsize=8)
        below.set(xlabel="optimizer step")
        below.grid(visible=False)
        bar = figure.colorbar(image, ax=below, label="length of the layer's gradient")
        ticks = [t for t in (-3, -2.5, -2, -1.5, -1, -0.5, 0) if image.norm.vmin <= t <= image.norm.vmax]
        bar.set_ticks(ticks, labels=[f"{10**t:.2g}" for t in ticks])
    last = flows[-1].norms
    return {
        "clipped_share": sum(e.grad_norm > 1.0 for e in logs) / len(logs),
        "first_norm": logs[0].grad_norm,
        "last_norm": logs[-1].grad_norm,
        "longest_norm": max(e.grad_norm for e in logs),
        "strongest_layer": max(last, key=lambda name: last[name]),
        "weakest_layer": min(last, key=lambda name: last[name]),
        "ratio": max(last.values()) / min(last.values()),
    }


def panel() -> Numbers:
    """The live panel at a moment of the run of `gradients`, as it stands on a terminal."""
    state, moment = RunState(), 0.0
    for event, about in read(WORK / PANEL_RUN / "events.jsonl"):
        if getattr(event, "step", None) is not None and event.step > 100:
            break
        moment = about["time"]
        state = fold(state, event, moment)
    save_panel("panel", state, moment, "luthier train")
    return {"step": state.step}


def four_bits() -> Numbers:
    """The 16 values of NF4 over the weights they store, and QLoRA beside LoRA on the same rows."""
    base = str(WORK / "base" / "final_model")
    with safe_open(Path(base) / "model.safetensors", "pt") as file:
        weight = file.get_tensor("model.layers.0.self_attn.q_proj.weight").float()
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    quantized = AutoModelForCausalLM.from_pretrained(base, quantization_config=settings, dtype=torch.float32)
    layer = quantized.model.layers[0].self_attn.q_proj.weight
    from bitsandbytes.functional import dequantize_4bit

    error = (dequantize_4bit(layer.data, layer.quant_state).float() - weight).abs()
    values = layer.quant_state.code.cpu().tolist()
    curves = {}
    for name, bits in (("LoRA, 32-bit base", False), ("QLoRA, NF4 base", True)):
        events = run("bits", quantization={"load_in_4bit": bits}, training={"num_train_epochs": 2},
                     evaluation={"eval_steps": 1000})  # fmt: skip
        curves[name] = ([e.loss for e in of(events, Log)], of(events, Evaluated)[-1].eval_loss)
    with picture("four_bits", 1, 2) as (_, (left, right)):
        blocks = weight.flatten().reshape(-1, 64)
        scaled = (blocks / blocks.abs().amax(dim=1, keepdim=True)).flatten()
        left.hist(scaled.numpy(), bins=80, color="#cbd5e1")
        for value in values:
            left.axvline(value, color=BLUE, linewidth=1)
        left.set(xlabel="weight / largest of its block of 64", yticks=[], title="the 16 values of NF4")
        left.grid(visible=False)
        (lora, _), (qlora, _) = curves.values()
        right.axhline(0, color=GREY, linewidth=1)
        right.plot(range(1, len(lora) + 1), [b - a for a, b in zip(lora, qlora, strict=True)], color=AMBER)
        right.set(xlabel="optimizer step", title="loss with QLoRA minus loss with LoRA")
    (_, plain), (_, coarse) = curves.values()
    return {
        "mean_error": error.mean().item() / weight.abs().mean().item(),
        "lora_eval_loss": plain,
        "qlora_eval_loss": coarse,
        "difference": coarse - plain,
    }


_TRAIN = """
import json, sys
sys.path.insert(0, "guide")
import luthier
from measuring.runs import config
resume = "auto" if sys.argv[2] == "resume" else None
settings = config(sys.argv[1], training={"max_steps": 60, "learning_rate": 3e-3}, lora={"lora_dropout": 0.1},
                  checkpointing={"save_steps": 10, "save_total_limit": 2})
for event in luthier.train(settings, resume=resume):
    pass
"""


def resume() -> Numbers:
    """A run, and the same run killed with SIGKILL in the middle and resumed: the difference of their curves."""
    for name in ("straight", "killed"):
        shutil.rmtree(WORK / name, ignore_errors=True)
    subprocess.run([sys.executable, "-c", _TRAIN, "straight", "fresh"], check=True)
    process = subprocess.Popen([sys.executable, "-c", _TRAIN, "killed", "fresh"])
    events = WORK / "killed" / "events.jsonl"
    while process.poll() is None:
        time.sleep(0.05)
        if events.is_file() and _last_step(events) >= 37:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    dead = [event for event, _ in read(events)]
    subprocess.run([sys.executable, "-c", _TRAIN, "killed", "resume"], check=True)
    straight = [e for e, _ in read(WORK / "straight" / "events.jsonl") if isinstance(e, Log)]
    resumed = [e for e, _ in read(events) if isinstance(e, Log)]
    before = [e for e in dead if isinstance(e, Log)]
    from_step = next(e.step for e, _ in read(events) if e.kind == "resumed")
    difference = [abs(a.loss - b.loss) for a, b in zip(straight, resumed, strict=True)]
    weights = [_hash(WORK / name / "final_model" / "adapter_model.safetensors") for name in ("straight", "killed")]
    assert weights[0] == weights[1], "the final adapters differ"
    with picture("resume", 2, 1, height=4.6) as (figure, (above, below)):
        above.plot(
            [e.step for e in straight], [e.loss for e in straight], color="#cbd5e1", linewidth=6, label="never killed"
        )
        above.plot([e.step for e in before], [e.loss for e in before], color=BLUE, label="until it was killed")
        after = [e for e in resumed if e.step > from_step]
        above.plot([e.step for e in after], [e.loss for e in after], "--", color=AMBER, label="resumed")
        above.axvline(before[-1].step, color=RED, linewidth=1)
        above.axvline(from_step, color=TEAL, linewidth=1)
        above.set(ylabel="loss of each step", ylim=(None, max(e.loss for e in straight) + 0.4))
        above.legend(ncols=3, loc="upper center")
        below.plot([e.step for e in straight], difference, color=INK)
        below.set(xlabel="optimizer step", ylabel="difference", ylim=(-1e-6, 1e-6))
        figure.align_ylabels()
    return {
        "killed_after": before[-1].step,
        "resumed_from": from_step,
        "lost_steps": before[-1].step - from_step,
        "steps": straight[-1].step,
        "largest_difference": max(difference),
    }


def _last_step(events: Path) -> int:
    return max((event.step for event, _ in read(events) if isinstance(event, Log)), default=0)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
