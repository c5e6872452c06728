"""Experiments on what is learned: loss, overfitting, learning rate, schedules, rank, four bits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

import luthier
from luthier.events.types import Architecture, Evaluated, Event, Log, RunFinished, Sampled
from luthier.training.schedule import learning_rate
from measuring.drawing import AMBER, BLUE, GREY, INK, RED, TEAL, picture, smooth
from measuring.material import VOCABULARY
from measuring.runs import config, material, of, run

Numbers = dict[str, Any]
PROMPT = "Write a Python function: Return the number of items."
SMOOTHED = 9
"""Steps that a point of a curve is the mean of: its own and those before it."""


def base() -> Numbers:
    """From scratch and in full: the small model that the other experiments adapt."""
    events = run(
        "base",
        model={"model_name_or_path": str(material().model), "from_scratch": True, "dtype": "float32"},
        data={"datasets": [{"path": str(material().texts), "format": "text"}]},
        training={"finetuning_type": "full", "num_train_epochs": 4, "learning_rate": 3e-3, "min_learning_rate": 3e-4,
                  "weight_decay": 0.1, "adam_beta2": 0.95},
        evaluation={"eval_steps": 50},
    )  # fmt: skip
    logs, evaluated = of(events, Log), of(events, Evaluated)
    _draw_from_scratch(logs)
    return {
        "parameters": of(events, Architecture)[0].parameters,
        "vocabulary": VOCABULARY,
        "guessing": math.log(VOCABULARY),
        "first_loss": logs[0].loss,
        "last_eval_loss": evaluated[-1].eval_loss,
        "perplexity": math.exp(evaluated[-1].eval_loss),
        "steps": logs[-1].step,
        "tokens": logs[-1].num_tokens,
    }


def _draw_from_scratch(logs: list[Log]) -> None:
    with picture("from_scratch") as (_, (axes,)):
        axes.axhline(math.log(VOCABULARY), color=GREY, linestyle="--")
        axes.text(60, math.log(VOCABULARY) + 0.1, f"guessing among {VOCABULARY:,} tokens: ln {VOCABULARY:,}", color=INK)
        axes.plot([e.step for e in logs], smooth([e.loss for e in logs], SMOOTHED), color=BLUE)
        axes.set(xlabel="optimizer step", ylabel="loss (nats a token)", ylim=(2.8, 8.2))


def overfitting() -> Numbers:
    """The same settings on plenty of rows and on few: train and eval loss."""
    plenty = run(
        "plenty",
        data=_rows("train[:1700]", held_out=200),
        training={"num_train_epochs": 2, "learning_rate": 3e-3},
        evaluation={"eval_steps": 10, "sample_prompts": [PROMPT], "sample_steps": [0]},
    )
    few = run(
        "few",
        data=_rows("train[:180]", held_out=100),
        training={"num_train_epochs": 30},
        evaluation={"eval_steps": 5},
    )
    _draw_train_and_eval(plenty, few)
    _draw_epochs(of(few, Log))
    best = min(of(few, Evaluated), key=lambda e: e.eval_loss)
    evaluated, samples = of(plenty, Evaluated), of(plenty, Sampled)
    return {
        "first_loss": of(plenty, Log)[0].loss,
        "train_loss": of(plenty, RunFinished)[0].train_loss,
        "first_eval_loss": evaluated[0].eval_loss,
        "last_eval_loss": evaluated[-1].eval_loss,
        "steps": evaluated[-1].step,
        "few_best_step": best.step,
        "few_best_loss": best.eval_loss,
        "few_last_train_loss": of(few, Log)[-1].loss,
        "few_last_eval_loss": of(few, Evaluated)[-1].eval_loss,
        "few_steps": of(few, Log)[-1].step,
        "prompt": PROMPT,
        "before": samples[0].text,
        "after": samples[-1].text,
    }


def _draw_train_and_eval(plenty: list[Event], few: list[Event]) -> None:
    with picture("train_and_eval", 1, 2) as (_, panels):
        titles, windows = ("1,500 rows, seen twice", "80 rows, seen 30 times"), (31, SMOOTHED)
        for axes, events, title, window in zip(panels, (plenty, few), titles, windows, strict=True):
            logs, evaluated = of(events, Log), of(events, Evaluated)
            axes.plot([e.step for e in logs], smooth([e.loss for e in logs], window), color=BLUE, label="train")
            axes.plot([e.step for e in evaluated], [e.eval_loss for e in evaluated], color=AMBER, label="eval")
            best = min(evaluated, key=lambda e: e.eval_loss)
            axes.plot(best.step, best.eval_loss, "o", color=AMBER)
            axes.annotate(f"best: step {best.step}", (best.step, best.eval_loss),
                          (0, 8) if events is plenty else (4, -14), textcoords="offset points",
                          ha="right" if events is plenty else "left")  # fmt: skip
            axes.set(title=title, xlabel="optimizer step", ylabel="loss (nats a token)")
            axes.legend()


def _rows(split: str, held_out: int) -> dict[str, Any]:
    return {
        "datasets": [{"path": str(material().tasks), "format": "alpaca", "split": split}],
        "val_set_size": held_out,
    }


def _draw_epochs(logs: list[Log]) -> None:
    """Loss of each step and mean of each epoch; an epoch is a whole number of steps here, so means compare."""
    steps_per_epoch = round(logs[0].step / logs[0].epoch)
    with picture("epochs") as (_, (axes,)):
        shown = [e for e in logs if e.epoch <= 10]
        axes.plot([e.epoch for e in shown], [e.loss for e in shown], color=GREY, linewidth=1, label="each step")
        means = [
            sum(e.loss for e in shown[i : i + steps_per_epoch]) / steps_per_epoch
            for i in range(0, len(shown), steps_per_epoch)
        ]
        axes.stairs(means, range(len(means) + 1), baseline=None, color=BLUE, linewidth=2.5, label="mean of each epoch")
        axes.set(xlabel="epoch", ylabel="loss (nats a token)", xticks=range(11))
        axes.legend()


def learning_rates() -> Numbers:
    """Too low, right and too high, on the same rows in the same order."""
    rates = {"too low": 3e-5, "right": 3e-3, "too high": 1e-1}
    colors = {"too low": AMBER, "right": BLUE, "too high": RED}
    numbers: Numbers = {}
    with picture("learning_rates", 1, 2) as (_, (left, right)):
        for name, rate in rates.items():
            changes = {"learning_rate": rate, "min_learning_rate": rate / 10, "max_steps": 60, "warmup_steps": 3}
            events = run("rate", training=changes, evaluation={"eval_steps": 60})
            losses = [e.loss for e in of(events, Log)]
            steps, curve = range(1, len(losses) + 1), smooth(losses, SMOOTHED)
            for axes in (left, right) if name != "too high" else (left,):
                axes.plot(steps, curve, color=colors[name], label=f"{name}: {rate:g}")
            key = name.replace(" ", "_")
            numbers |= {f"{key}_rate": rate, f"{key}_eval_loss": of(events, Evaluated)[-1].eval_loss}
            numbers["first_loss"] = losses[0]
        left.set(xlabel="optimizer step", ylabel="loss (nats a token)")
        right.set(xlabel="optimizer step", title="the lower two, closer")
        left.legend()
    return numbers


def untouched() -> Numbers:
    """Eval loss of the base model itself on the held-out rows of `learning_rates` and of `overfitting`."""
    still = {"max_steps": 1, "warmup_steps": 0, "learning_rate": 1e-12, "min_learning_rate": 0.0}
    numbers = {}
    for name, data in (("eval_loss", {}), ("plenty_eval_loss", _rows("train[:1700]", held_out=200))):
        events = run("untouched", data=data, training=still, evaluation={"eval_steps": 1})
        numbers[name] = of(events, Evaluated)[0].eval_loss
    return numbers


def schedules() -> Numbers:
    """Drawn from the function that training itself uses; nothing is trained."""
    plan, _ = luthier.plan(config("schedules"))
    steps = plan.total_steps
    names = {"cosine": BLUE, "linear": TEAL, "constant": GREY, "wsd": AMBER}
    with picture("schedules") as (_, (axes,)):
        for name, color in names.items():
            changes = {"lr_scheduler_type": name, "learning_rate": 2e-4, "min_learning_rate": 5e-5}
            changed = plan.config.with_values({f"training.{key}": value for key, value in changes.items()})
            changed = replace(plan, config=changed, warmup_steps=8, decay_steps=26)
            axes.plot(range(steps), [learning_rate(changed, step) for step in range(steps)], color=color, label=name)
        axes.axhline(5e-5, color=INK, linewidth=0.8, linestyle="--")
        axes.text(18, 5.4e-5, "min_learning_rate", fontsize=9)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 1e4:g}e-4" if value else "0")
        axes.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, 2.2e-4), yticks=[0, 5e-5, 1e-4, 15e-5, 2e-4])
        axes.legend(loc="lower center", ncols=4)
    return {"steps": steps}


def adamw() -> Numbers:
    """How far AdamW moves one number, in learning rates, around a sudden long gradient; in float64."""
    quiet, spike = [1.0] * 2000, 1000.0
    numbers = {}
    for name, gradients, beta2 in (
        ("spike", [*quiet, spike], 0.999),
        ("after", [*quiet, spike, 1.0], 0.999),
        ("later", [*quiet, spike, *[1.0] * 100], 0.999),
        ("short_memory", [*quiet, spike], 0.98),
        ("clipped", [*quiet, 2.0], 0.999),
        ("clipped_later", [*quiet, 2.0, *[1.0] * 100], 0.999),
        ("growing", [1.11**step for step in range(2000)], 0.999),
        ("turning", [(-1.0) ** step for step in range(2000)], 0.999),
    ):
        weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.AdamW([weight], lr=1.0, betas=(0.9, beta2), weight_decay=0.0)
        for gradient in gradients:
            before = weight.item()
            weight.grad = torch.tensor([gradient], dtype=torch.float64)
            optimizer.step()
        numbers[name] = abs(weight.item() - before)
    return numbers


def rank() -> Numbers:
    """Rank against trained parameters and the loss it reaches in one epoch."""
    ranks, numbers = (1, 2, 4, 8, 16, 32, 64), {}
    parameters, losses = [], []
    for r in ranks:
        events = run("rank", lora={"r": r, "lora_alpha": 2 * r}, training={"num_train_epochs": 1},
                     evaluation={"eval_steps": 1000})  # fmt: skip
        architecture = of(events, Architecture)[0]
        parameters.append(architecture.trainable_parameters)
        losses.append(of(events, Evaluated)[-1].eval_loss)
        share = architecture.trainable_parameters / architecture.parameters
        numbers |= {f"parameters_{r}": parameters[-1], f"share_{r}": share, f"loss_{r}": losses[-1]}
    with picture("rank", 1, 2) as (_, (left, right)):
        names = [str(r) for r in ranks]
        left.bar(names, parameters, color=BLUE)
        left.set(xlabel="rank r", ylabel="trained parameters")
        left.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f} k")
        right.plot(names, losses, "o-", color=AMBER)
        right.set(xlabel="rank r", ylabel="eval loss after one epoch")
    return numbers
