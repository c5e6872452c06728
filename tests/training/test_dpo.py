"""Preference training: its loss and gradients against plain transformers and TRL, and what a run of it must keep."""

from __future__ import annotations

import math
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from luthier import api
from luthier.config.schema import DpoSection
from luthier.data.loader import collate
from luthier.data.order import step_rows
from luthier.events.types import Evaluated, Log, Notice, RunFinished
from luthier.ingredients import ingredients
from luthier.machine.probe import probe
from luthier.model.load import load_model
from luthier.training import engine
from luthier.training import reference as reference_module
from luthier.training.job import Job
from luthier.training.objective import dpo
from luthier.training.optimizer import build_optimizer
from luthier.training.reference import FOLDER, ask_reference
from luthier.training.step import backward, evaluate
from tests.tiny import write_pairs
from tests.torture.runs import config, unlike
from tests.training.test_resume import in_child

BETA = 0.3


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_pairs(path, 40)
    return path


def of_pairs(folder, model, rows, **changes):
    values = config(folder, model, rows, objective="dpo", **changes)
    values["dpo"] = {"beta": BETA}
    values["lora"]["lora_dropout"] = 0.0
    return values


def run_of(values) -> Job:
    """The run of a config, ready for its first step, with its reference asked for."""
    loaded = api._loaded(values, ())
    parts = ingredients(loaded, api.resolve(loaded, probe(), None, None), None)
    torch.manual_seed(0)
    model = load_model(parts.plan, parts.model_config)
    folder = Path(values["training"]["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = build_optimizer(model, parts.plan)
    run = Job(parts.plan, parts.data, model, parts.tokenizer, optimizer, folder, api.identity(parts.plan))
    list(ask_reference(run))
    return run


def shake(model):
    """An adapter that does something, as after some steps."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn(p.shape, generator=generator))


def log_probability(model, row):
    """Of an answer by plain transformers, the row alone."""
    ids = torch.tensor(row.input_ids, dtype=torch.long)[None]
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].double()
    each = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return each[torch.tensor(row.trained)[1:]].sum()


def plain(policy, reference, pairs, smoothing=0.0):
    """Loss and mean rewards as in the paper, of two models through which each answer goes alone."""
    losses, rewards = [], []
    for pair in pairs:
        with torch.no_grad():
            before = [log_probability(reference, row) for row in pair]
        now = [log_probability(policy, row) for row in pair]
        chosen, rejected = (BETA * (after - earlier) for after, earlier in zip(now, before, strict=True))
        right = torch.sigmoid(chosen - rejected)
        losses.append(-(1 - smoothing) * right.log() - smoothing * (1 - right).log())
        rewards.append((chosen.item(), rejected.item()))
    return torch.stack(losses).mean(), *np.mean(rewards, axis=0)


def test_the_loss_of_a_pair_and_what_it_asks_of_each_answer():
    loss_R = torch.tensor([10.0, 12.0, 30.0, 20.0], dtype=torch.float64, requires_grad=True)
    reference_R = torch.tensor([11.0, 11.0, 25.0, 25.0], dtype=torch.float64)
    summed = dpo(loss_R, reference_R, DpoSection(beta=0.5))
    margins = [0.5 * (1.0 + 1.0), 0.5 * (-5.0 - 5.0)]
    assert summed[0].item() == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins))
    assert summed[1:].tolist() == pytest.approx([0.5 * (1 - 5), 0.5 * (-1 + 5), 1.0])
    summed[0].backward()
    pull = [0.5 / (1 + math.exp(m)) for m in margins]
    assert loss_R.grad.tolist() == pytest.approx([pull[0], -pull[0], pull[1], -pull[1]])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("how", ["lean", "own layers", "padded", "nf4", "full"])
def test_loss_rewards_and_gradients_equal_plain_transformers(tmp_path, tiny_model_dir, pairs_file, how, smoothing):
    values = of_pairs(tmp_path / "run", tiny_model_dir, pairs_file)
    values["dpo"]["label_smoothing"] = smoothing
    values["training"] |= {"lean_path": how in ("lean", "nf4"), "packing": how != "padded"}
    values["quantization"] = {"load_in_4bit": how == "nf4"}
    if how == "full":
        del values["lora"]
        values["training"]["finetuning_type"] = "full"
    run = run_of(values)
    values["training"] |= {"lean_path": False, "packing": False}
    reference, policy = run_of(values).model, run_of(values).model
    shake(run.model)
    shake(policy)
    rows, model = run.data.train, run.model
    batches = [collate(rows, group, run.plan) for group in ([0, 1, 2], [3], [4, 5])]
    summed, counted = backward(model, batches, run.plan, reference_P2=run.reference.train_P2)
    wanted, chosen, rejected = plain(policy, reference, [rows.members(i) for i in range(6)], smoothing)
    wanted.backward()
    assert counted.losses == 6 and counted.trained_tokens == rows.trained[:6].sum()
    assert (summed[:3] / 6).tolist() == pytest.approx([wanted.item(), chosen, rejected], abs=2e-5)
    assert chosen != pytest.approx(0, abs=1e-3), "the adapter does nothing: the test proves little"
    again, _ = evaluate(model, batches, run.plan, run.reference.train_P2)
    assert again == pytest.approx(summed.tolist(), abs=1e-5)
    gradients = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    largest = max(float(gradient.norm()) for gradient in gradients.values())
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert float((p.grad - gradients[name]).norm()) < 1e-4 * largest, name


def test_a_run_learns_to_prefer_and_says_so(tmp_path, tiny_model_dir, pairs_file):
    events = list(api.train(of_pairs(tmp_path / "run", tiny_model_dir, pairs_file, learning_rate=3e-3)))
    logs, held_out = ([e for e in events if isinstance(e, kind)] for kind in (Log, Evaluated))
    first, last = logs[0], held_out[-1]
    assert first.loss == pytest.approx(math.log(2), abs=1e-6) and first.reward_margin == pytest.approx(0, abs=1e-5)
    assert last.eval_loss < 0.4 and last.reward_accuracy == 1.0 and last.reward_margin > 0.5
    assert last.reward_margin == pytest.approx(last.reward_chosen - last.reward_rejected)
    log = (tmp_path / "run" / "events.jsonl").read_text()
    assert log.count('"reward_margin":') == len(logs) + len(held_out)


@pytest.mark.parametrize("cut", [{"max_tokens_per_micro_batch": 160}, {"packing": False}], ids=str)
def test_how_a_step_is_cut_changes_no_number(tmp_path, tiny_model_dir, pairs_file, cut):
    curves = []
    for name, changes in (("whole", {"max_tokens_per_micro_batch": 4000}), ("cut", cut)):
        values = of_pairs(tmp_path / name, tiny_model_dir, pairs_file, max_steps=4, **changes)
        curves.append([(e.loss, e.reward_margin) for e in api.train(values) if isinstance(e, Log)])
    for one, other in zip(*curves, strict=True):
        assert one == pytest.approx(other, abs=2e-5)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, tiny_model_dir, pairs_file):
    runs = {name: of_pairs(tmp_path / name, tiny_model_dir, pairs_file) for name in ("whole", "killed", "emptied")}
    for values in runs.values():
        values["lora"]["lora_dropout"] = 0.1
    assert in_child(runs["whole"]) == 0
    for name in ("killed", "emptied"):
        assert in_child(runs[name], kill=(5, 0.001), resume="auto") == -signal.SIGKILL
        if name == "emptied":  # the model is asked again, before the checkpoint is read
            shutil.rmtree(tmp_path / name / FOLDER)
        assert in_child(runs[name], resume="auto") == 0
        assert unlike(tmp_path / "whole", tmp_path / name) == ""


def test_the_reference_is_asked_for_once_and_never_of_another_model(tmp_path, tiny_model_dir, pairs_file, monkeypatch):
    values = of_pairs(tmp_path / "run", tiny_model_dir, pairs_file)
    asked = []
    real = reference_module.answer_losses
    monkeypatch.setattr(reference_module, "answer_losses", lambda *those: asked.append(1) or real(*those))
    first = run_of(values).reference
    assert asked and first.eval_P2.shape == (6, 2)
    asked.clear()
    again = run_of(values).reference
    assert not asked and torch.equal(first.train_P2, again.train_P2) and torch.equal(first.eval_P2, again.eval_P2)
    stored = next((tmp_path / "run" / FOLDER).glob("*.safetensors"))
    damaged = bytearray(stored.read_bytes())
    damaged[-1] ^= 1
    stored.write_bytes(damaged)
    assert torch.equal(run_of(values).reference.train_P2, first.train_P2) and asked, "damaged: it asks anew"
    asked.clear()
    values["quantization"] = {"load_in_4bit": True}
    assert not torch.equal(run_of(values).reference.train_P2, first.train_P2) and asked


def test_a_stop_while_the_model_is_asked_trains_nothing(tmp_path, tiny_model_dir, pairs_file, monkeypatch):
    monkeypatch.setattr(reference_module, "_PAIRS_AT_ONCE", 5)
    seen = []
    events = []
    for event in api.train(of_pairs(tmp_path / "run", tiny_model_dir, pairs_file), stop=lambda: len(seen) > 0):
        events.append(event)
        if isinstance(event, Notice) and "the reference of training" in event.text:
            seen.append(event)
    end = next(event for event in events if isinstance(event, RunFinished))
    assert end.status == "stopped" and end.step == 0 and not [e for e in events if isinstance(e, Log)]
    assert not (tmp_path / "run" / FOLDER).exists()


def test_memory_that_runs_out_while_the_model_is_asked(tmp_path, tiny_model_dir, pairs_file, monkeypatch):
    large = {"max_tokens_per_micro_batch": 4000}
    values = of_pairs(tmp_path / "whole", tiny_model_dir, pairs_file, **large)
    whole = [e.loss for e in api.train(values) if isinstance(e, Log)]
    real = reference_module.answer_losses

    def answer_losses(model, batch):
        if len(batch.pairs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(model, batch)

    monkeypatch.setattr(reference_module, "answer_losses", answer_losses)
    events = list(api.train(of_pairs(tmp_path / "run", tiny_model_dir, pairs_file, **large)))
    assert any("the reference before step 1 ran out of memory" in e.text for e in events if isinstance(e, Notice))
    assert [e.loss for e in events if isinstance(e, Log)] == pytest.approx(whole, abs=2e-5)


STEPS = 10


def trl_curve(folder, tmp_path, run, order):
    """Loss, margin and accuracy of each step of TRL's DPOTrainer: the same tokens in the same order, the same start."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class Tokenized(DPOTrainer):
        """Its loss and its loop, on rows that are token ids already."""

        def _prepare_dataset(self, dataset, *those):
            return dataset

    rows = []
    for pair in map(run.data.train.members, order):
        prompt = int(pair[0].trained.argmax())
        assert not pair[1].trained[:prompt].any() and pair[1].trained[prompt:].all()
        answers = [row.input_ids for row in pair]
        prompts, chosen, rejected = answers[0][:prompt], *(ids[prompt:] for ids in answers)
        rows.append({"prompt_ids": prompts.tolist(), "chosen_ids": chosen.tolist(), "rejected_ids": rejected.tolist()})
    settings = DPOConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=2, gradient_accumulation_steps=2,
        max_steps=STEPS, learning_rate=2e-3, lr_scheduler_type="linear", warmup_steps=0, logging_steps=1, report_to=[],
        beta=BETA, bf16=False, save_strategy="no", weight_decay=0.0, seed=0, disable_tqdm=True, optim="adamw_torch",
        max_length=None, gradient_checkpointing=False, train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer = Tokenized(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), args=settings,
        train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    start = {name: p.detach().clone() for name, p in run.model.named_parameters() if p.requires_grad}
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            parameter.data = start[name].clone()
    trainer.train()
    names = ("loss", "rewards/margins", "rewards/accuracies")
    return [tuple(entry[name] for name in names) for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_curves_are_those_of_trl(tmp_path, tiny_model_dir, pairs_file):
    changes = {"max_steps": STEPS, "learning_rate": 2e-3, "lr_scheduler_type": "linear", "warmup_steps": 0}
    values = of_pairs(tmp_path / "run", tiny_model_dir, pairs_file, **changes)
    run = run_of(values)
    order = [i for step in range(STEPS) for i in step_rows(len(run.data.train), 4, 42, step)]
    theirs = trl_curve(tiny_model_dir, tmp_path, run, order)
    logs = [event for event in engine.run(run) if isinstance(event, Log)]
    ours = [(event.loss, event.reward_margin, event.reward_accuracy) for event in logs]
    assert len(ours) == len(theirs) == STEPS and ours[-1][0] < 0.5 < ours[0][0]
    for step, (own, other) in enumerate(zip(ours, theirs, strict=True), 1):
        assert own[:2] == pytest.approx(other[:2], abs=2e-3), step
        assert step == 1 or own[2] == pytest.approx(other[2], abs=1e-6), "at step 1 no answer has a reward"
