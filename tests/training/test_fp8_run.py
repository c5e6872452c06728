"""Whole runs on a base of 8-bit floats: they learn as others do, go on exactly, and their adapters are plain ones."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import luthier
from luthier.errors import CheckpointError
from luthier.events.types import Architecture, Evaluated, Log, Notice, Sampled
from luthier.export.merge import merged
from luthier.model.lean.fp8 import round_as_fp8
from luthier.training.checkpoint import find_checkpoint
from luthier.training.identity import check_identity
from tests.training.test_lean_run import settings

FINAL = "final_model"


def values_of(folder, model, rows, *, base_precision="fp8", **changes):
    values = settings(folder, model, rows, **changes)
    values["quantization"] = {"base_precision": base_precision}
    values["evaluation"] |= {"eval_steps": 4, "sample_prompts": ["add two"], "sample_max_new_tokens": 8}
    values["training"]["learning_rate"] = 1e-2
    return values


def losses(events):
    return [event.loss for event in events if isinstance(event, Log)]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("fp8") / "run"
    return folder, list(luthier.train(values_of(folder, tiny_model_dir, alpaca_file)))


def test_it_learns_nearly_what_others_learn_and_not_the_same(run, tmp_path, tiny_model_dir, alpaca_file):
    _, events = run
    other = list(luthier.train(values_of(tmp_path / "run", tiny_model_dir, alpaca_file, base_precision="default")))
    assert not [event for event in events if isinstance(event, Notice) and event.severity == "warning"]
    assert losses(events) != losses(other)
    assert losses(events) == pytest.approx(losses(other), rel=0.02)
    assert losses(events)[-1] < losses(events)[0]
    ours, theirs = ([event.eval_loss for event in each if isinstance(event, Evaluated)] for each in (events, other))
    assert ours == pytest.approx(theirs, rel=0.02)
    counts = [event.parameters for each in (events, other) for event in each if isinstance(event, Architecture)]
    assert counts[0] == counts[1], "frozen 8-bit weights are counted like others"


def test_a_run_that_was_stopped_goes_on_exactly(run, tmp_path, tiny_model_dir, alpaca_file):
    folder, events = run
    values = values_of(tmp_path / "run", tiny_model_dir, alpaca_file)
    steps = [0]
    first = []
    for event in luthier.train(values, stop=lambda: steps[-1] >= 3):
        steps.append(getattr(event, "step", None) or steps[-1])
        first.append(event)
    assert len(losses(first)) < 8
    rest = list(luthier.train(values, resume="auto"))
    assert losses(first) + losses(rest) == losses(events)
    straight, resumed = (load_file(f / FINAL / "adapter_model.safetensors") for f in (folder, tmp_path / "run"))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    values["quantization"]["base_precision"] = "default"
    with pytest.raises(CheckpointError) as caught:
        list(luthier.train(values, resume="auto"))
    (problem,) = caught.value.problems
    assert problem.code == "E-CKPT-004" and "base_precision" in problem.found


def test_a_checkpoint_from_before_there_was_the_key_is_one_without_it(run):
    folder, _ = run
    then = find_checkpoint(folder, "auto").identity
    older = {**then, "config": {k: v for k, v in then["config"].items() if k != "quantization.base_precision"}}
    now = {**then, "config": {**then["config"], "quantization.base_precision": "default"}}
    assert check_identity(older, now, "a checkpoint", allow_changes=False) == []
    with pytest.raises(CheckpointError):
        check_identity(older, then, "a checkpoint", allow_changes=False)


def test_its_adapter_is_plain_and_goes_onto_the_values_that_it_was_trained_on(run, tiny_model_dir):
    folder, events = run
    assert json.loads((folder / FINAL / "luthier.json").read_text("utf-8"))["base_precision"] == "fp8"
    assert "8-bit floats" in (folder / FINAL / "README.md").read_text("utf-8")
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain = PeftModel.from_pretrained(base, folder / FINAL)(input_ids=ids).logits
        tuned = luthier.load(folder)
        assert tuned.base.numbers == "8-bit e4m3"
        ours = tuned.model(input_ids=ids).logits
        assert not torch.equal(ours, plain)
        torch.testing.assert_close(ours, plain, atol=0.3, rtol=0.1)
        rounded = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
        round_as_fp8(rounded)
        on_values = PeftModel.from_pretrained(rounded, folder / FINAL)(input_ids=ids).logits
        torch.testing.assert_close(ours, on_values)
        torch.testing.assert_close(merged(folder).model(input_ids=ids).logits, on_values, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            merged(folder, onto="files").model(input_ids=ids).logits, plain, atol=1e-4, rtol=1e-4
        )
    assert [event for event in events if isinstance(event, Sampled)]
