"""One step by hand: the numbers of a real run's step 1, AdamW's arithmetic, and the screen."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import luthier
from luthier.api import gathered
from luthier.config.load import load
from luthier.data.order import step_rows
from luthier.events.types import Log
from luthier.verify.by_hand import adamw, by_hand, chosen
from luthier.verify.by_hand_screen import memory_warning, show_step
from tests.cli.support import run_here, write_config
from tests.tiny import write_rows

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
KEYS = [
    "per_device_train_batch_size=1", "gradient_accumulation_steps=1", "max_steps=1", "warmup_steps=0",
    "lr_scheduler_type=constant", "weight_decay=0.1", "max_grad_norm=0.5", "adam_beta2=0.98", "rehearsal=false",
]  # fmt: skip


@pytest.fixture
def config(tmp_path, tiny_model_dir, alpaca_file):
    return write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out")


def first_row(parts) -> int:
    """The number, from 1, of the row that step 1 of the run takes."""
    seed = parts.plan.config.training.seed
    return int(parts.data.train.chosen[step_rows(len(parts.data.train), 1, seed, 0)[0]]) + 1


@pytest.mark.parametrize(
    "keys", [("lean_path=true",), ("packing=false", "lean_path=false", "use_dora=true"), ("finetuning_type=full",)]
)
def test_it_is_step_1_of_a_run_and_adamw_by_its_formula(config, tmp_path, keys):
    parts = gathered(load(config, [*KEYS, *keys]))
    training = parts.plan.config.training
    row = chosen(parts, first_row(parts))
    step = by_hand(parts, row)
    log = next(event for event in [*luthier.train(config, [*KEYS, *keys])] if isinstance(event, Log))
    printed = re.search(r"trained tokens = (\S+)", screen(parts, row, step, 120))
    assert printed and float(printed[1]) == pytest.approx(log.loss, abs=6e-5)
    assert math.fsum(step.before) / len(step.before) == pytest.approx(log.loss, rel=1e-5)
    assert step.loss == pytest.approx(log.loss, rel=1e-6)
    assert step.norm == pytest.approx(log.grad_norm, rel=1e-6) and step.factor == pytest.approx(0.5 / log.grad_norm)
    assert math.fsum(step.after) < math.fsum(step.before)
    # AdamW of torch in float64, from the same number and its shortened gradient
    moved = step.moved
    weight = torch.tensor([[moved.before]], dtype=torch.float64, requires_grad=True)
    weight.grad = torch.full_like(weight, moved.gradient * 0.5 / step.norm)
    torch.optim.AdamW(
        [weight], lr=training.learning_rate, betas=(training.adam_beta1, 0.98), eps=training.adam_epsilon,
        weight_decay=0.1,
    ).step()  # fmt: skip
    assert adamw(parts.plan, step).after == pytest.approx(weight.item(), rel=1e-12)
    assert moved.after == pytest.approx(weight.item(), rel=1e-6)
    assert (moved.before == 0) == ("lora_B" in moved.name) and moved.decay == 0.1
    # and what the run has saved
    saved = load_file(next((tmp_path / "out" / "final_model").glob("*model.safetensors")))
    name = moved.name.replace(".default", "")
    assert saved[name][moved.row, moved.column].item() == pytest.approx(moved.after, rel=1e-6)


def screen(parts, row, step, width: int) -> str:
    out = io.StringIO()
    show_step(Console(file=out, highlight=False, width=width), parts.plan, row, step)
    return out.getvalue()


def test_the_screen_says_each_number_within_its_width(config):
    parts = gathered(load(config, ["warmup_steps=10", "max_steps=100"]))
    row = chosen(parts, 3)
    step = by_hand(parts, row)
    for width in (60, 80, 120):
        shown = screen(parts, row, step, width)
        lines = shown[shown.index("1. Forward") :].splitlines()
        assert max(map(len, lines)) <= max(width, 80)
        assert shown.count("Why: ") == 6 and f"{step.norm:.4f}" in shown
        pairs = [(f"{before:.3f}", f"{after:.3f}") for before, after in zip(step.before, step.after, strict=True)]
        assert re.findall(r" (\d+\.\d{3}) +(\d+\.\d{3})", shown) == pairs
    assert "step 1 of the run, in its warmup, has 0.0002" in shown
    assert "All gradients of A are 0" in shown and "(lora_alpha / r) B A" in shown
    unclipped = screen(parts, row, replace(step, factor=1.0, norm=0.25), 80)
    assert "0.2500 is not above max_grad_norm, 1: nothing is shortened" in unclipped
    risen = screen(parts, row, replace(step, after=tuple(loss + 1 for loss in step.before)), 80)
    assert "It rose" in risen and "(+1.0000)" in risen


def test_a_step_that_does_not_fit_is_warned_of(config):
    parts = gathered(load(config))
    row = chosen(parts, 1)
    assert memory_warning(row.memory) == "" and row.memory.tokens == len(row.shown.tokens)
    assert re.match(
        r"warning: a step of this row holds \d\.\d\d GiB as the plan forecasts it, and there is room for 0\.00",
        memory_warning(replace(row.memory, room_gib=0.001)),
    )


def test_the_command_and_its_mistakes(config, capsys, tmp_path):
    done = run_here(capsys, "inspect", config, "--row", 3, "--step")
    assert done.code == 0 and "AdamW: the update" in done.out and done.err == ""
    one = ("--row", 1, "--step")
    for arguments in (("--step",), (*one, "--row", 2), (*one, "--html", tmp_path / "x")):
        wrong = run_here(capsys, "inspect", config, *arguments)
        assert wrong.code == 2 and "--step takes one row" in wrong.err
    none = run_here(capsys, "inspect", config, "--row", 65, "--step")
    assert none.code == 2 and "E-GATE-003" in none.err and "row 65 is asked for, and there are 64" in none.err


def test_e_gate_004_a_row_without_a_trained_token(config, capsys, tmp_path):
    path = tmp_path / "long.jsonl"
    write_rows(path, 20)
    long = {"instruction": "reverse " * 200, "input": "", "output": "def f(): return 1"}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(long) + "\n")
    done = run_here(
        capsys, "inspect", config, f"data.datasets=[{{path: {path}}}]", "max_seq_length=128", "--row", 21, "--step"
    )
    assert done.code == 2 and "E-GATE-004" in done.err and "long.jsonl:21" in done.err
