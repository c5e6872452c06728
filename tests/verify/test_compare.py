"""Comparing two runs: equal ones are equal, and each planted difference is named."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier import api
from luthier.verify.compare import compare
from luthier.verify.resume import Verified
from luthier.verify.screen import table, verdict

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
STEPS = 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model_dir, alpaca_file):
    """Folder of two runs of the same config, a and b."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        config = {
            "model": {"model_name_or_path": str(tiny_model_dir), "dtype": "float32"},
            "lora": {"r": 4},
            "data": {"datasets": [{"path": str(alpaca_file)}], "val_set_size": 6, "cache_dir": str(folder / "cache")},
            "training": {"output_dir": str(folder / name), "max_steps": STEPS, "max_tokens_per_micro_batch": 400},
            "evaluation": {"eval_steps": 2},
            "checkpointing": {"save_steps": 2},
            "logging": {"logging_steps": 1, "histogram_steps": 0, "report_to": []},
        }
        for _ in api.train(config):
            pass
    return folder


@pytest.fixture
def pair(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs" / "a", tmp_path / "runs" / "b"


def test_the_same_run_twice_is_equal(pair):
    comparison = compare(*pair, STEPS)
    assert comparison.equal and comparison.rows == {1: True, 2: True, 4: True}
    counts = {quantity.name: quantity.compared for quantity in comparison.quantities}
    assert counts["loss"] == counts["learning rate"] == counts["gradient norm"] == STEPS
    assert counts["eval loss"] == 2 and counts["trained weights"] == 28 and counts["optimizer"] > 28


def in_events(kind, key, step, value):
    def plant(folder):
        path = folder / "events.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        (record,) = [r for r in records if r["event"] == kind and r["step"] == step]
        record[key] = record[key] + value if value is not None else "NaN"
        path.write_text("".join(json.dumps(r) + "\n" for r in records))

    return plant


def in_state(key, value):
    def plant(folder):
        path = folder / f"checkpoint-{STEPS}" / "trainer_state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    return plant


def in_tensors(file, change):
    def plant(folder):
        path = folder / f"checkpoint-{STEPS}" / file
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return plant


def add_to(name_part, value):
    def change(tensors):
        name = next(name for name in sorted(tensors) if name_part in name)
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[0] += value

    return change


def zero(sign):
    return lambda tensors: tensors.update({min(tensors): torch.zeros_like(tensors[min(tensors)]) * sign})


@pytest.mark.parametrize(
    ("plant", "name", "first"),
    [
        (in_events("log", "loss", 3, 1e-15), "loss", "step 3"),
        (in_events("log", "loss", 2, None), "loss", "step 2"),
        (in_events("log", "learning_rate", 1, 1e-9), "learning rate", "step 1"),
        (in_events("log", "grad_norm", 4, 0.5), "gradient norm", "step 4"),
        (in_events("evaluated", "eval_loss", 4, 0.25), "eval loss", "step 4"),
        (in_tensors("adapter_model.safetensors", add_to("lora_A", 0.5)), "trained weights", "lora_A"),
        (in_tensors("optimizer.safetensors", add_to("exp_avg_sq", 0.5)), "optimizer", "exp_avg_sq"),
        (in_tensors("optimizer.safetensors", lambda t: t.pop(sorted(t)[0])), "optimizer", "/"),
        (in_state("best_loss", 1.5), "counters", "best_loss"),
        (in_state("patience_loss", None), "counters", "patience_loss"),
        (in_tensors("rng.safetensors", add_to("cpu", 1)), "random generators", "cpu"),
    ],
)  # fmt: skip
def test_each_planted_difference_is_named(pair, plant, name, first):
    plant(pair[1])
    comparison = compare(*pair, STEPS)
    (wrong,) = [quantity for quantity in comparison.quantities if not quantity.same]
    assert wrong.name == name and first in wrong.first and wrong.largest > 0 and not comparison.equal


def test_the_same_number_in_other_bits_is_not_the_same(pair):
    for folder, change in zip(pair, (zero(1.0), zero(-1.0)), strict=True):
        in_tensors("adapter_model.safetensors", change)(folder)
    (wrong,) = [quantity for quantity in compare(*pair, STEPS).quantities if not quantity.same]
    assert wrong.name == "trained weights" and wrong.largest == 0


def test_other_rows_are_seen_by_their_hash(pair):
    path = pair[1] / "checkpoint-4" / "trainer_state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "data_hash": "0" * 64}))
    comparison = compare(*pair, STEPS)
    assert comparison.rows == {1: True, 2: True, 4: False} and not comparison.equal
    assert all(quantity.same for quantity in comparison.quantities)


def test_a_step_that_one_run_lacks(pair):
    path = pair[1] / "events.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines() if '"step":3' not in line))
    wrong = {quantity.name: quantity for quantity in compare(*pair, STEPS).quantities if not quantity.same}
    assert set(wrong) == {"loss", "learning rate", "gradient norm"} and wrong["loss"].largest == math.inf


@pytest.mark.parametrize(
    ("repeatable", "surroundings", "words"),
    [
        (False, (), "arithmetic of this machine is not repeatable"),
        (True, (), "it is the resume that loses something"),
        (True, ("Correct, but not bit-identical to an uninterrupted run: threads: 2 then, 1 now",), "threads: 2 then"),
    ],
)
def test_the_screen_explains_a_difference(pair, repeatable, surroundings, words):
    in_events("log", "loss", 3, 0.125)(pair[1])
    verified = Verified(STEPS, 2, 3, compare(*pair, STEPS), repeatable, surroundings)
    assert words in verdict(verified) and "NOT the straight one: loss differ" in verdict(verified)
    assert "loss                              0.125   4 steps   first in step 3" in table(verified)
    in_tensors("adapter_model.safetensors", add_to("lora_A", 0.5))(pair[1])
    in_state("data_hash", "")(pair[1])
    worse = table(Verified(STEPS, 2, 3, compare(*pair, STEPS), repeatable, surroundings))
    assert "rows that trained    NOT the same, seen at step 4" in worse and "lora_A.weight" in worse
    assert max(map(len, worse.splitlines())) <= 100
