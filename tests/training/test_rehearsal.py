"""The largest step before the first: really the largest, really run, and without a trace in what is trained."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from luthier import api
from luthier.config.keys import by_name
from luthier.config.load import from_dict
from luthier.config.plan import Plan
from luthier.config.resolve import resolve
from luthier.data.largest import find_largest
from luthier.data.loader import collate, evaluation_batches, training_steps
from luthier.errors import RunError
from luthier.events.line import memory_line
from luthier.events.types import (
    CheckpointSaved,
    Log,
    MemoryForecast,
    Notice,
    Rehearsed,
    RunFinished,
    RunStarted,
    TimeForecast,
)
from luthier.machine import probe
from luthier.training import rehearsal
from tests.rows import MemoryRows, machine, plan_for
from tests.training.test_resume import config

KINDS = {
    "dropout": ({}, {}),
    "NF4, lean": ({"lora_dropout": 0.0}, {}),
    "all weights": (None, {"finetuning_type": "full"}),
    "padded": ({}, {"auto": False, "max_tokens_per_micro_batch": "auto"}),
}


def settings(folder, model, rows, kind, **training):
    lora, more = KINDS[kind]
    values = config(folder, model, rows, **more, **training)
    values["quantization"] = {"load_in_4bit": "NF4" in kind}
    values["lora"] = values["lora"] | lora if lora is not None else {}
    return values


def trained(values, **options):
    """Events and final weights."""
    events = list(api.train(values, **options))
    file = "model" if values["training"].get("finetuning_type") == "full" else "adapter_model"
    folder = values["training"]["output_dir"]
    return events, load_file(f"{folder}/final_model/{file}.safetensors")


def only(events, kind):
    found = [event for event in events if isinstance(event, kind)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_it_leaves_no_trace_in_what_is_trained(tmp_path, tiny_model_dir, alpaca_file, kind):
    runs = []
    for wanted in (False, True):
        torch.manual_seed(0)
        values = settings(tmp_path / str(wanted), tiny_model_dir, alpaca_file, kind, rehearsal=wanted)
        events, weights = trained(values)
        assert any(isinstance(event, Rehearsed) for event in events) is wanted
        runs.append(([(e.loss, e.grad_norm) for e in events if isinstance(e, Log)], weights))
        assert not list((tmp_path / str(wanted)).glob(".inflight-*"))
    assert runs[0][0] == runs[1][0]
    assert runs[0][1].keys() == runs[1][1].keys()
    assert all(torch.equal(weights, runs[1][1][name]) for name, weights in runs[0][1].items())


def test_after_a_resume_too(tmp_path, tiny_model_dir, alpaca_file):
    _, straight = trained(settings(tmp_path / "a", tiny_model_dir, alpaca_file, "dropout", rehearsal=False))
    values = settings(tmp_path / "b", tiny_model_dir, alpaca_file, "dropout", rehearsal=True)
    steps = [0]
    for event in api.train(values, stop=lambda: steps[-1] >= 5):
        steps.append(getattr(event, "step", None) or 0)
    events, resumed = trained(values, resume="auto")
    assert only(events, Rehearsed).checkpoint_bytes > 0
    assert all(torch.equal(weights, resumed[name]) for name, weights in straight.items())


def test_no_weight_changes_not_even_the_sign_of_a_zero():
    for fused in (True, False):
        weight = torch.nn.Parameter(torch.tensor([-0.0, 0.0, 1.5, -2e-40, 3e38]))
        before = weight.detach().clone()
        optimizer = torch.optim.AdamW([weight], lr=0.0, weight_decay=0.0, fused=fused)
        for _ in range(2):
            weight.grad = torch.zeros_like(weight)
            optimizer.step()
        assert torch.equal(weight.view(torch.int32), before.view(torch.int32))


def brute_force(rows: MemoryRows, held_out: MemoryRows, plan: Plan):
    """All micro-batches of a run, really made."""
    batches = [batch for step in training_steps(rows, plan, 0, 0, 1) for batch in step]
    evaluated = [batch.input_ids_BT.numel() for batch in evaluation_batches(held_out, plan, 0, 1)]
    return max(b.input_ids_BT.numel() for b in batches), max(b.num_trained for b in batches), max(evaluated)


@pytest.mark.parametrize("keys", [{}, {"lean_path": "false"}, {"auto": "false"}], ids=["lean", "packed", "padded"])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_largest_of_all_steps(tiny_model_dir, keys, seed):
    rows, held_out = MemoryRows(60, longest=50, seed=seed), MemoryRows(30, seed=seed + 10)
    for row in rows.rows[::2]:  # many begin alike, so lengths alone do not tell
        row.input_ids[:5] = 7
        row.trained[:7] = False
    rows.trained[:] = [row.trained.sum() for row in rows.rows]
    plan = replace(plan_for(tiny_model_dir, rows, 120, seed=seed, num_train_epochs=2, **keys), eval_every=3)
    largest = find_largest(rows, held_out, plan)
    tokens, trained_tokens, evaluated = brute_force(rows, held_out, plan)
    assert (largest.tokens, largest.trained_tokens) == (tokens, trained_tokens)
    assert largest.longest_row_tokens == rows.lengths.max()
    assert 1 <= len(largest.passes) <= 3
    assert collate(held_out, largest.evaluation, plan).input_ids_BT.numel() == evaluated


def test_it_says_what_it_found(tmp_path, tiny_model_dir, alpaca_file):
    events, _ = trained(settings(tmp_path / "run", tiny_model_dir, alpaca_file, "dropout", rehearsal=True))
    found, forecast = only(events, Rehearsed), only(events, MemoryForecast)
    assert events.index(found) < [isinstance(event, Log) for event in events].index(True)
    assert found.error == pytest.approx(forecast.gib / found.measured_gib - 1)
    assert found.parts == forecast.parts
    assert 0.1 < found.measured_gib <= only(events, RunFinished).peak_memory_gib + 1e-9
    assert min(found.step_seconds, found.eval_seconds, found.save_seconds) > 0
    time_of_it = only(events, TimeForecast)
    assert events.index(found) + 1 == events.index(time_of_it)
    assert (time_of_it.step, time_of_it.fitted_steps) == (0, 0)
    assert time_of_it.remaining_seconds > time_of_it.steps * time_of_it.step_seconds > 0
    assert time_of_it.evaluations > 0 and time_of_it.saves > 0
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    assert found.checkpoint_bytes == pytest.approx(saved[0].bytes, rel=0.1)


def test_more_than_the_config_allows_is_said(tmp_path, tiny_model_dir, alpaca_file):
    for asked in (0.05, 50):
        values = settings(tmp_path / str(asked), tiny_model_dir, alpaca_file, "dropout", rehearsal=True)
        events, _ = trained(values | {"training": {**values["training"], "memory_gib": asked}})
        said = [event for event in events if isinstance(event, Notice) and "training.memory_gib" in event.text]
        assert bool(said) == (asked < 1)
        if said:
            (warning,) = said
            assert warning.severity == "warning" and f"{only(events, Rehearsed).measured_gib:.2f} GiB" in warning.text
            assert by_name()[warning.change.partition(":")[0].rpartition(".")[2]]
            forecast = only(events, MemoryForecast)
            assert forecast.room_gib == asked and "there is room for 0.1" in memory_line(forecast)


def test_a_mark_that_an_earlier_run_left_is_not_taken_for_this_one(tiny_model_dir):
    plan = plan_for(tiny_model_dir, MemoryRows(16), memory_gib=6)
    meter = probe.PeakMeter(torch.device("cpu"))
    meter.gib = 7.5
    assert "7.50 GiB, and training.memory_gib is 6" in rehearsal._too_much(plan, meter).text
    meter._before = 7.5  # what it keeps on CUDA
    assert rehearsal._too_much(plan, meter) is None


def test_a_short_run_is_not_kept_waiting(tmp_path, tiny_model_dir, alpaca_file):
    events, _ = trained(settings(tmp_path / "run", tiny_model_dir, alpaca_file, "dropout"))
    assert not [event for event in events if isinstance(event, Rehearsed)]
    said = [event for event in events if isinstance(event, Notice) and "no rehearsal" in event.text]
    assert said[0].change == "training.rehearsal: true"
    assert only(events, RunStarted).plan["training.rehearsal"] is False
    loaded = from_dict({}, ["max_steps=60"])
    longer = resolve(loaded, machine(), None, None)
    assert longer.config.training.rehearsal is True
    assert longer.value("training.rehearsal").how == "60 steps: less than a twentieth of the run"


def test_without_it_the_first_steps_tell_the_time(tmp_path, tiny_model_dir, alpaca_file):
    values = settings(tmp_path / "run", tiny_model_dir, alpaca_file, "dropout", rehearsal=False, max_steps=40)
    events, _ = trained(values)
    said = only(events, TimeForecast)
    assert (said.step, said.steps, said.fitted_steps) == (20, 20, 17)
    assert said.remaining_seconds > 0 and said.error >= 0


@pytest.mark.parametrize("where", ["backward", "evaluate", "save_checkpoint"])
def test_a_failure_is_the_runs_own_and_leaves_nothing_behind(tmp_path, tiny_model_dir, alpaca_file, monkeypatch, where):
    whole = getattr(rehearsal, where)

    def fails(*arguments, **options):
        whole(*arguments, **options)
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(rehearsal, where, fails)
    values = settings(tmp_path / "run", tiny_model_dir, alpaca_file, "dropout", rehearsal=True)
    with pytest.raises(RunError, match="E-RUN-002"):
        list(api.train(values))
    assert not list((tmp_path / "run").glob(".inflight-*"))
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_gradients_and_generators_are_put_back_after_a_failure():
    model = torch.nn.Linear(2, 2)
    before = torch.get_rng_state()
    with pytest.raises(ValueError), rehearsal._undone(SimpleNamespace(model=model)):
        model(torch.randn(2)).sum().backward()
        raise ValueError
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("by_kernel", [True, False])
def test_the_peak_of_a_block_is_seen_and_the_peak_of_the_process_not_forgotten(monkeypatch, by_kernel):
    if not by_kernel:
        monkeypatch.setattr(probe, "_forget_peak", lambda: False)
    device = torch.device("cpu")
    earlier = bytearray(400 << 20)
    highest = probe.peak_memory_gib(device)
    del earlier
    with probe.PeakMeter(device) as quiet:
        start = probe.resident_gib()
    with probe.PeakMeter(device) as meter:
        held = bytearray(200 << 20)
        held[::4096] = b"x" * len(held[::4096])
        torch.randn(400, 400) @ torch.randn(400, 400)
        if not by_kernel:
            time.sleep(0.05)
        del held
    assert meter.gib - start == pytest.approx(0.195, abs=0.08)
    assert quiet.gib < start + 0.05 and math.isfinite(quiet.gib)
    assert probe.peak_memory_gib(device) >= highest - 1e-3
    assert ("thread" in meter.method) is not by_kernel
