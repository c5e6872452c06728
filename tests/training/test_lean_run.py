"""Whole runs by the lean path, through peft's layers, and as the YAML stands: the same losses."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from luthier import api
from luthier.data.collate import MicroBatch
from luthier.errors import ModelError, Problem, RunError
from luthier.events.types import CheckpointSaved, Evaluated, Log, Notice, RunStarted, Timing
from luthier.model import load
from luthier.model.lean.decoder import LeanDecoder
from luthier.model.lean.graphs import Graphs
from luthier.training import engine
from luthier.training.ahead import TimeLeft
from luthier.training.state import TrainState
from tests.model.lean.test_graphs import ByStarts, cross_entropy
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


def adamw(weights, gradients, average, squares, norm, *, step, lr, betas, eps, weight_decay, max_norm):
    """What `luthier.model.kernels.adamw` does, in plain torch."""
    if not norm.isfinite():
        return
    gradients = gradients * min(1.0, max_norm / (norm.item() + 1e-6)) if max_norm > 0 else gradients
    weights.mul_(1 - lr * weight_decay)
    average.lerp_(gradients, 1 - betas[0])
    squares.lerp_(gradients * gradients, 1 - betas[1])
    denominator = squares.sqrt() / (1 - betas[1] ** step) ** 0.5 + eps
    weights.sub_(lr / (1 - betas[0] ** step) * average / denominator)


@pytest.fixture
def recorded(monkeypatch):
    """Passes are recorded on a CPU too, where a recording is the function itself. How many began before their turn."""
    begun, begin = [], Graphs.begin

    def proven(model, plan, dtype, pieces):
        lean = of_luthier(model, plan, dtype, replace(pieces, cross_entropy=cross_entropy, adamw=adamw))
        for layer in lean.layers:
            layer.attention = ByStarts(layer.attention)
        lean.graphs, lean._fills_up = Graphs(lean, lambda work: work), False
        return lean

    of_luthier = load._proven
    monkeypatch.setattr(load, "_proven", proven)
    monkeypatch.setattr(Graphs, "begin", lambda self: begun.append(begin(self)) or begun[-1])
    return begun


@pytest.fixture
def elsewhere(monkeypatch):
    """Batches on the device are others than those that were packed, as on a GPU."""
    moved, add_data = [], TrainState.add_data

    def to(self, device):
        assert device.type == "cpu", "where the model is"
        if not any(self is batch for batch in moved):
            tensors = {name: x.clone() for name, x in vars(self).items() if isinstance(x, torch.Tensor)}
            moved.append(replace(self, **tensors))
            return moved[-1]
        return self

    def hashed(self, batches):
        assert not any(batch is other for batch in batches for other in moved), "the device's cannot be read here"
        add_data(self, batches)

    monkeypatch.setattr(MicroBatch, "to", to)
    monkeypatch.setattr(TrainState, "add_data", hashed)


class OfRanks(torch.Tensor):
    """Sums of several ranks: they lie elsewhere than the model."""

    device = property(lambda _: torch.device("meta"))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("ranks", [False, True], ids=["one process", "sums that were added over ranks"])
def test_no_pass_is_computed_twice_where_it_began_before(
    tmp_path, tiny_model_dir, alpaca_file, monkeypatch, recorded, ranks
):
    computed, asked, whole_pass, run = [], [], LeanDecoder.whole_pass, Graphs.run
    if ranks:
        backward = engine.backward

        def of_ranks(*arguments):
            summed, counted = backward(*arguments)
            return summed.as_subclass(OfRanks), counted

        monkeypatch.setattr(engine, "backward", of_ranks)
    monkeypatch.setattr(LeanDecoder, "whole_pass", lambda self, batch: computed.append(1) or whole_pass(self, batch))
    monkeypatch.setattr(Graphs, "run", lambda self, batch: asked.append(1) or run(self, batch))
    values = settings(tmp_path / "run", tiny_model_dir, alpaca_file)
    values["training"]["max_steps"] = 20
    list(api.train(values))
    assert sum(recorded) > 5 and len(computed) == len(asked)


def test_passes_that_begin_before_the_step_before_is_told_of_change_no_bit(
    tmp_path, tiny_model_dir, alpaca_file, monkeypatch, recorded, elsewhere
):
    """Beside evaluations, checkpoints, samples, several passes a step, and a stop."""
    changes = {"max_tokens_per_micro_batch": 400}
    finals, updates, goes_ahead = [], [], engine.goes_ahead
    monkeypatch.setattr(engine, "goes_ahead", lambda job: updates.append(goes_ahead(job)) or updates[-1])
    for name, ahead in (("with", True), ("judged first", True), ("without", False)):
        recorded.clear()
        if name == "judged first":
            assert sum(updates) == len(updates) > 25
            monkeypatch.setattr(engine, "goes_ahead", lambda job: False)
        if not ahead:
            monkeypatch.setattr(engine, "follows_at_once", lambda job: False)
        values = settings(tmp_path / name, tiny_model_dir, alpaca_file, **changes)
        values["training"]["max_steps"] = 30
        values["evaluation"] |= {"eval_steps": 10, "sample_prompts": ["a"]}
        steps = [0]
        for event in api.train(values, stop=lambda steps=steps: steps[-1] == 17):
            steps.append(getattr(event, "step", None) or steps[-1])
        losses = [event.loss for event in api.train(values, resume="auto") if isinstance(event, Log)]
        assert any(recorded) == ahead
        finals.append((losses, load_file(tmp_path / name / ADAPTER)))
    for losses, adapter in finals[1:]:
        assert finals[0][0] == losses
        assert all(torch.equal(values, adapter[name]) for name, values in finals[0][1].items())


@pytest.mark.usefixtures("recorded")
def test_a_step_is_usual_when_all_its_passes_were_replays(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    usual, made, add = [], [], TimeLeft.add
    record = Graphs._record
    monkeypatch.setattr(Graphs, "_record", lambda self, *rest: made.append(len(usual)) or record(self, *rest))
    monkeypatch.setattr(TimeLeft, "add", lambda self, done, step: usual.append(done.usual) or add(self, done, step))
    values = settings(tmp_path / "run", tiny_model_dir, alpaca_file)
    values["training"]["max_steps"] = 20
    list(api.train(values))
    steps = [number for number in made if number or usual]  # that of the proof came before
    assert [number for number, each in enumerate(usual) if not each] == sorted({0, *steps}) and sum(usual) > 5


def test_rows_that_come_late_are_seen_where_passes_begin_before(
    tmp_path, tiny_model_dir, alpaca_file, monkeypatch, recorded
):
    def late(*arguments):
        for batches in steps(*arguments):
            time.sleep(0.1)
            yield batches

    steps = engine.training_steps
    monkeypatch.setattr(engine, "training_steps", late)
    values = settings(tmp_path / "run", tiny_model_dir, alpaca_file)
    values["logging"]["logging_steps"] = 1
    seconds = [event.data_seconds for event in api.train(values) if isinstance(event, Timing)]
    assert any(recorded) and all(each > 0.09 for each in seconds[:-1])


def test_no_pass_begins_before_a_checkpoint_that_the_clock_asks_for(tmp_path, tiny_model_dir, alpaca_file, recorded):
    values = settings(tmp_path / "run", tiny_model_dir, alpaca_file)
    values["training"]["max_steps"] = 20
    values["checkpointing"] = {"save_strategy": "steps", "save_steps": 1000, "save_minutes": 1e-9}
    saved = [event.step for event in api.train(values) if isinstance(event, CheckpointSaved)]
    assert len(saved) > 15 and not any(recorded)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_left_out_moves_nothing_where_the_update_goes_ahead(
    tmp_path, tiny_model_dir, alpaca_file, monkeypatch, recorded, what
):
    """Nor does it count for the optimizer; and the pass that has begun is that of the next step."""
    of_the_engine, calls = engine.backward, []

    def backward(model, *arguments):
        summed, counted = of_the_engine(model, *arguments)
        calls.append(1)
        if len(calls) in (9, 10, 15):
            if what == "loss":
                return summed * float("inf"), counted
            next(p for p in model.parameters() if p.requires_grad).grad.view(-1)[0] = float("nan")
        return summed, counted

    monkeypatch.setattr(engine, "backward", backward)
    goes_ahead, finals = engine.goes_ahead, []
    for ahead in (True, False):
        calls.clear(), recorded.clear()
        monkeypatch.setattr(engine, "goes_ahead", goes_ahead if ahead else lambda job: False)
        values = settings(tmp_path / str(ahead), tiny_model_dir, alpaca_file, bad_steps_limit=100)
        values["training"]["max_steps"] = 20
        events = list(api.train(values))
        left_out = [event.step for event in events if isinstance(event, Notice) and "left out step" in event.text]
        assert left_out == [9, 10, 15] and sum(recorded) > 5
        last = tmp_path / str(ahead) / "checkpoint-20"
        losses = [event.loss for event in events if isinstance(event, Log)]
        saved = [load_file(last / f"{name}.safetensors") for name in ("adapter_model", "optimizer")]
        finals.append((losses, *saved))
    assert finals[0][0] == finals[1][0] and finals[0][1].keys() == finals[1][1].keys()
    for ahead, judged in zip(finals[0][1:], finals[1][1:], strict=True):
        assert ahead and all(torch.equal(values, judged[name]) for name, values in ahead.items())


def test_a_step_whose_update_is_queued_is_not_done_again(tmp_path, tiny_model_dir, alpaca_file, monkeypatch, recorded):
    """It would be two updates."""
    numbers, asked = engine.Numbers.read, []

    def read(self):
        asked.append(1)
        if len(asked) == 6:
            raise torch.OutOfMemoryError("CUDA error: out of memory, asynchronously reported")
        return numbers(self)

    monkeypatch.setattr(engine.Numbers, "read", read)
    with pytest.raises(RunError, match="memory"):
        list(api.train(settings(tmp_path / "run", tiny_model_dir, alpaca_file)))
    assert len(asked) == 6


@pytest.mark.parametrize(
    "changes", [{"loss_spikes": "skip"}, {"dtype": "float16"}, {"histogram_steps": 1}], ids=lambda c: next(iter(c))
)
def test_the_update_waits_where_more_is_asked_of_the_step(
    tmp_path, tiny_model_dir, alpaca_file, recorded, changes, monkeypatch
):
    goes_ahead, answers = engine.goes_ahead, []
    monkeypatch.setattr(engine, "goes_ahead", lambda job: answers.append(goes_ahead(job)) or answers[-1])
    values = settings(tmp_path / "run", tiny_model_dir, alpaca_file)
    list(api.train(values, [f"{key}={value}" for key, value in changes.items()]))
    assert any(recorded) and answers and not any(answers)
