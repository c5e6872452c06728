"""Whole runs by the lean path, through peft's layers, and as the YAML stands: the same losses."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from luthier import api
from luthier.errors import ModelError, Problem
from luthier.events.types import Evaluated, Log, Notice, RunStarted
from tests.training.test_resume import config

ADAPTER = "final_model/adapter_model.safetensors"


def settings(folder, model, rows, **changes):
    values = config(folder, model, rows, max_steps=8, **changes)
    values["lora"]["lora_dropout"] = 0.0
    return values


def trained(folder, model, rows, *, load_in_4bit=False, **changes):
    """Plan, losses and the adapter of a run."""
    values = settings(folder, model, rows, **changes)
    values["quantization"] = {"load_in_4bit": load_in_4bit}
    events = list(api.train(values))
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    losses = [event.loss for event in events if isinstance(event, Log)]
    losses += [event.eval_loss for event in events if isinstance(event, Evaluated)]
    return started.plan, losses, load_file(folder / ADAPTER)


@pytest.fixture(scope="module")
def lean(tmp_path_factory, tiny_model_dir, alpaca_file):
    return trained(tmp_path_factory.mktemp("lean") / "run", tiny_model_dir, alpaca_file)


def test_it_is_what_a_plain_adapter_takes(lean):
    plan, losses, _ = lean
    assert plan["training.lean_path"] is True
    assert losses[7] < losses[0]


@pytest.mark.parametrize(
    "changes",
    [{"lean_path": False}, {"auto": False, "max_tokens_per_micro_batch": "auto"}, {"max_tokens_per_micro_batch": 400}],
    ids=["peft's layers", "as the YAML stands", "other passes"],
)
def test_the_losses_are_those_of_every_other_way(lean, tmp_path, tiny_model_dir, alpaca_file, changes):
    plan, losses, adapter = trained(tmp_path / "run", tiny_model_dir, alpaca_file, **changes)
    assert plan["training.lean_path"] is ("max_tokens_per_micro_batch" in changes and "auto" not in changes)
    assert plan["training.packing"] is ("auto" not in changes)
    assert losses == pytest.approx(lean[1], abs=2e-5)
    for name, values in adapter.items():
        torch.testing.assert_close(values, lean[2][name], atol=2e-4, rtol=2e-2)


def test_checkpointed_layers_change_no_bit(lean, tmp_path, tiny_model_dir, alpaca_file):
    plan, losses, adapter = trained(tmp_path / "run", tiny_model_dir, alpaca_file, gradient_checkpointing=True)
    assert plan["plan.checkpointed_layers"] == 2
    assert losses == lean[1]
    assert all(torch.equal(values, lean[2][name]) for name, values in adapter.items())


def test_4_bit_weights_train_the_same_by_both(tmp_path, tiny_model_dir, alpaca_file):
    _, ours, _ = trained(tmp_path / "lean", tiny_model_dir, alpaca_file, load_in_4bit=True)
    _, theirs, _ = trained(tmp_path / "peft", tiny_model_dir, alpaca_file, load_in_4bit=True, lean_path=False)
    assert ours == pytest.approx(theirs, abs=2e-5)


def test_where_the_proof_fails_the_models_own_layers_train(lean, tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    def refused(*_):
        raise ModelError(Problem("E-MODEL-014", "they differ", "write lean_path: false"))

    monkeypatch.setattr("luthier.model.load.prove_lean", refused)
    values = settings(tmp_path / "run", tiny_model_dir, alpaca_file)
    events = list(api.train(values))
    assert any(isinstance(e, Notice) and e.severity == "warning" and "E-MODEL-014" in e.text for e in events)
    assert [e.loss for e in events if isinstance(e, Log)] == pytest.approx(lean[1][:8], abs=2e-5)
    with pytest.raises(ModelError):
        list(api.train(settings(tmp_path / "asked", tiny_model_dir, alpaca_file, lean_path=True)))
