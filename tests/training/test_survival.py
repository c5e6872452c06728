"""What would end a run elsewhere: memory that is not there, numbers that are none, a full disk, a step that hangs."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from luthier import api
from luthier.errors import ConfigError, RefusedError, RunError
from luthier.events.types import CHANCE, CheckpointSaved, Evaluated, Log, Notice, Resumed, RunFinished, Sampled
from luthier.model.forward import lean_of
from luthier.training import checkpoint, engine, milestones, rehearsal, samples, saving
from luthier.training.checkpoint import checkpoints, find_checkpoint, restore
from luthier.training.commit import commit, sweep, verify
from luthier.training.guard import FEWEST, judge, remember, robust_z
from luthier.training.state import TrainState
from luthier.training.step import backward as real_backward
from luthier.training.step import update as real_update
from luthier.training.watchdog import STACKS, Watchdog
from tests.tiny import build_model, build_tokenizer, write_rows
from tests.training.test_resume import config, losses, weights


def train(values, **options):
    return list(api.train(values, **options))


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def adapter(folder):
    return load_file(folder / "final_model" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, tiny_model_dir, alpaca_file):
    """A run that nothing happens to; samples and evaluations included."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    return folder, train(ordinary(folder, tiny_model_dir, alpaca_file))


def ordinary(folder, model, rows, **changes):
    values = config(folder, model, rows, **changes)
    values["lora"]["lora_dropout"] = 0.0
    values["evaluation"] |= {"sample_prompts": ["Write a function"], "sample_steps": [0, 6], "sample_max_new_tokens": 8}
    return values


# --- memory ----------------------------------------------------------------------------------------------------------


def too_large(most_tokens, calls):
    """`backward` on a device that holds so many tokens in a pass."""

    def backward(model, batches, plan, *rest):
        calls.append([batch.num_tokens for batch in batches])
        for batch in batches:
            if batch.num_tokens > most_tokens and batch.rows > 1:
                real_backward(model, [batch], plan)  # leaves half a gradient behind, as a real failure does
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real_backward(model, batches, plan, *rest)

    return backward


@pytest.mark.parametrize("lean", [True, False])
def test_a_step_that_does_not_fit_is_done_again_in_smaller_passes(
    straight, tmp_path, tiny_model_dir, alpaca_file, monkeypatch, lean
):
    calls = []
    monkeypatch.setattr(engine, "backward", too_large(90, calls))
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file, lean_path=lean)
    events = train(values)
    said = [event for event in of(Notice, events) if "ran out of memory" in event.text]
    assert said and all(event.change.startswith("training.max_tokens_per_micro_batch: ") for event in said)
    assert "E-RUN-002" in said[0].text and said[0].severity == "warning"
    assert [e.step for e in of(Log, events)] == list(range(1, 13)), "no step is lost and none is done twice"
    assert [e.loss for e in of(Log, events)] == pytest.approx([e.loss for e in of(Log, straight[1])], abs=1e-5)
    for name, values_then in adapter(straight[0]).items():
        torch.testing.assert_close(adapter(tmp_path / "run")[name], values_then, atol=1e-4, rtol=1e-2)
    assert max(calls[-1]) <= 90 or len(calls[-1]) == 4, "what was lowered stays so"


def test_what_was_lowered_is_kept_on_resume(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    calls, steps = [], [0]
    monkeypatch.setattr(engine, "backward", too_large(90, calls))
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file)
    for event in api.train(values, stop=lambda: steps[-1] >= 6):
        steps.append(max(getattr(event, "step", None) or 0, steps[-1]))  # a checkpoint arrives steps later
    lowered = checkpoints(tmp_path / "run")[-1]
    passes = json.loads((lowered / "trainer_state.json").read_text())["identity"]["passes"]
    assert passes["lowered"] and passes["micro_batch_tokens"] < 200, "the YAML says 200"
    calls.clear()
    events = train(values, resume="auto")
    assert not [event for event in of(Notice, events) if "ran out of memory" in event.text]
    assert not [event for event in of(Notice, events) if "bit-identical" in event.text]
    assert len(calls) == 6


def test_layers_are_checkpointed_when_smaller_passes_do_not_help(
    straight, tmp_path, tiny_model_dir, alpaca_file, monkeypatch
):
    def backward(model, batches, plan, *rest):
        if plan.checkpointed_layers < 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return real_backward(model, batches, plan, *rest)

    monkeypatch.setattr(engine, "backward", backward)
    events = train(ordinary(tmp_path / "run", tiny_model_dir, alpaca_file))
    changes = [event.change for event in of(Notice, events) if "ran out of memory" in event.text]
    assert changes[-2:] == ["training.gradient_checkpointing: true"] * 2, "half of the layers, then all"
    assert [e.loss for e in of(Log, events)] == pytest.approx([e.loss for e in of(Log, straight[1])], abs=1e-5)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
def test_a_model_that_cannot_compute_layers_again_is_not_asked_to(tmp_path, alpaca_file, monkeypatch):
    build_tokenizer(tmp_path / "model")
    shape = OpenAIGPTConfig(vocab_size=400, n_positions=256, n_embd=16, n_layer=2, n_head=2)
    OpenAIGPTLMHeadModel(shape).save_pretrained(tmp_path / "model")
    values = ordinary(tmp_path / "run", tmp_path / "model", alpaca_file, max_steps=4)
    values["evaluation"] = {"eval_steps": 0}
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(engine, "backward", too_large(0, calls))
        events = train(values)
    assert of(RunFinished, events)[0].status == "done" and calls
    assert not any("computed again" in event.text for event in of(Notice, events))

    def backward(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "backward", backward)
    with pytest.raises(RunError, match="E-RUN-002"):
        train(values, overwrite=True)
    values["training"]["gradient_checkpointing"] = True
    with pytest.raises(ConfigError, match="E-CFG-038"):
        train(values, overwrite=True)


@pytest.mark.parametrize("auto", [True, False])
def test_memory_that_never_suffices_is_a_named_error(tmp_path, tiny_model_dir, alpaca_file, monkeypatch, auto):
    def backward(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "backward", backward)
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file)
    if not auto:
        values["training"] |= {"auto": False, "max_tokens_per_micro_batch": "auto"}
    events = []
    with pytest.raises(RunError) as error:
        for event in api.train(values):
            events.append(event)
    (problem,) = error.value.problems
    assert problem.code == "E-RUN-002"
    proposed = problem.fix.removeprefix("write ").partition(",")[0]
    given_up = [event.change for event in of(Notice, events) if "ran out of memory" in event.text]
    assert (proposed == "auto: true") if not auto else given_up and proposed == "load_in_4bit: true", "what is left"
    assert losses(tmp_path / "run")["log"] == {}


def test_an_evaluation_that_does_not_fit_is_done_again(straight, tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    real = milestones.evaluate

    def evaluate(model, batches, plan, reference=None):
        def measured():
            for batch in batches:
                if batch.num_tokens > 90 and batch.rows > 1:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                yield batch

        return real(model, measured(), plan)

    monkeypatch.setattr(milestones, "evaluate", evaluate)
    events = train(ordinary(tmp_path / "run", tiny_model_dir, alpaca_file))
    found, expected = ([e.eval_loss for e in of(Evaluated, run)] for run in (events, straight[1]))
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("module", [engine, milestones, rehearsal])
def test_recorded_passes_are_given_up_before_anything_else(tmp_path, tiny_model_dir, alpaca_file, monkeypatch, module):
    name = "backward" if module is engine else "evaluate"
    real, asked = getattr(module, name), []

    def first_fails(model, *arguments):
        lean = lean_of(model)

        def give_up(why):
            lean.graphs = None
            return True

        if not asked:
            asked.append(model)
            lean.graphs = SimpleNamespace(give_up=give_up)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, *arguments)

    monkeypatch.setattr(module, name, first_fails)
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file, lean_path=True, rehearsal=True, max_steps=5)
    said = [event for event in of(Notice, train(values)) if "ran out of memory" in event.text]
    assert [event.change for event in said] == ["training.cuda_graphs: false"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
@pytest.mark.long
def test_memory_that_the_system_refuses_is_survived(tmp_path):
    """No stand-in: the process may map so much and no more, and torch's own allocator fails."""
    build_model(tmp_path / "model", hidden_size=256, intermediate_size=1024, num_hidden_layers=4)
    write_rows(tmp_path / "rows.jsonl", 64)
    cases = []
    for name, lean, mib in (("lean", True, 15), ("peft", False, 40), ("roomy", False, 4096)):
        step = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "max_steps": 2, "warmup_steps": 0}
        values = config(tmp_path / name, tmp_path / "model", tmp_path / "rows.jsonl", lean_path=lean, **step)
        values["training"]["max_tokens_per_micro_batch"] = 4096
        values["lora"]["lora_dropout"] = 0.0
        values["data"] |= {"dataloader_num_workers": 0, "val_set_size": 0}
        cases.append((values, mib))
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, "-m", "tests.training.limited", str(tmp_path / "cases.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = [[json.loads(line) for line in run.splitlines()] for run in done.stdout.strip().split("\n\n")]
    ran_out = [[e["text"] for e in run if "ran out of memory" in e.get("text", "")] for run in runs]
    assert [bool(said) for said in ran_out] == [True, True, False]
    *others, roomy = [[e["loss"] for e in run if e["kind"] == "log"] for run in runs]
    assert len(roomy) == 2
    for other in others:
        assert other == pytest.approx(roomy, abs=1e-4)


# --- numbers ---------------------------------------------------------------------------------------------------------


def damaged(steps, value=float("nan")):
    """`backward` whose gradient is not a number in these steps (1 is the first)."""

    def backward(model, batches, plan, *rest):
        backward.step += 1
        sums = real_backward(model, batches, plan, *rest)
        if backward.step in steps:
            next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = value
        return sums

    backward.step = 0
    return backward


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_a_number_is_left_out_and_its_rows_are_named(
    tmp_path, tiny_model_dir, alpaca_file, monkeypatch, value
):
    monkeypatch.setattr(engine, "backward", damaged({4, 5}, value))
    events = train(ordinary(tmp_path / "run", tiny_model_dir, alpaca_file))
    said = [event for event in of(Notice, events) if event.text.startswith("left out")]
    assert [event.text.split(":")[0] for event in said] == ["left out step 4", "left out step 5"]
    assert all(re.search(r"rows\.jsonl:\d+, \d+, \d+, \d+$", event.text) for event in said), "a step has 4 rows"
    assert [event.step for event in of(Log, events)] == [1, 2, 3, *range(6, 13)]
    assert of(RunFinished, events)[0].status == "done"
    assert all(tensor.isfinite().all() for tensor in adapter(tmp_path / "run").values())
    saved = [event.step for event in of(CheckpointSaved, events)]
    assert 4 not in saved, "no checkpoint while steps are bad: one goes back to what was before them"


def test_too_many_in_a_row_stop_the_run_and_no_checkpoint_holds_them(
    tmp_path, tiny_model_dir, alpaca_file, monkeypatch
):
    monkeypatch.setattr(engine, "backward", damaged(range(5, 99)))
    with pytest.raises(RunError, match="3 steps before it were not finite either") as error:
        train(ordinary(tmp_path / "run", tiny_model_dir, alpaca_file))
    assert error.value.problems[0].code == "E-RUN-001"
    newest = find_checkpoint(tmp_path / "run", "auto")
    assert newest.step == 4
    assert all(t.isfinite().all() for t in load_file(newest.path / "adapter_model.safetensors").values())


def test_it_goes_back_to_a_checkpoint_with_a_lower_rate_when_asked(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    monkeypatch.setattr(engine, "backward", damaged(range(5, 8)))
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file, bad_steps_limit=2, after_bad_steps="rollback")
    events = train(values)
    (resumed,) = of(Resumed, events)
    assert resumed.step == 4
    logs = of(Log, events)
    assert [event.step for event in logs] == [1, 2, 3, 4, *range(5, 13)]
    plain = {event.step: event.learning_rate for event in logs[:4]}
    assert all(event.learning_rate > 0 for event in logs) and plain[4] > 1.9 * logs[4].learning_rate
    state = json.loads((checkpoints(tmp_path / "run")[-1] / "trainer_state.json").read_text())
    assert (state["rate_factor"], state["rollbacks"]) == (0.5, 1)
    (said,) = [event for event in of(Notice, events) if event.severity == "critical"]
    assert said.text.startswith("back to step 4, with 0.5 times the learning rate: step 7: loss ")


def test_going_back_in_vain_ends(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    monkeypatch.setattr(engine, "backward", damaged(range(5, 999)))
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file, bad_steps_limit=1, after_bad_steps="rollback")
    events = []
    with pytest.raises(RunError, match="E-RUN-001"):
        events.extend(api.train(values))
    text = (tmp_path / "run" / "events.jsonl").read_text()
    back = [json.loads(line)["step"] for line in text.splitlines() if '"event":"resumed"' in line]
    assert back == [4, 2], "the second time to an older one"
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "run").glob("abandoned-*")] == [
        "abandoned-checkpoint-4"
    ]


def test_a_later_bad_phase_goes_back_to_what_is_newest_then(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    monkeypatch.setattr(engine, "backward", damaged({5, 10}))  # the second time, step 10 is the run's ninth
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file, bad_steps_limit=0, after_bad_steps="rollback")
    assert [event.step for event in of(Resumed, train(values))] == [4, 8]


def overflowing(at):
    """`update` that makes one weight infinite at one step."""

    def update(trained, optimizer, plan, rate, norm):
        real_update(trained, optimizer, plan, rate, norm)
        update.step += 1
        if update.step == at:
            with torch.no_grad():
                trained[0].view(-1)[3] = float("inf")

    update.step = 0
    return update


def test_a_step_that_makes_weights_infinite_is_gone_back_from(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    monkeypatch.setattr(engine, "update", overflowing(at=6))
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file, after_bad_steps="rollback")
    events = train(values)
    assert [event.step for event in of(Resumed, events)] == [5], "saved as the best one"
    (said,) = [event for event in of(Notice, events) if event.severity == "critical"]
    assert "after step 6" in said.text and "not finite" in said.text
    assert of(RunFinished, events)[-1].status == "done"
    assert all(t.isfinite().all() for t in adapter(tmp_path / "run").values())


def test_a_best_step_without_a_checkpoint_is_forgotten(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    """A better one came later, so its checkpoint was rotated away; then the run went back to before the better one."""

    def restore_with_a_best(checkpoint, model, optimizer):
        state = restore(checkpoint, model, optimizer)
        state.best_step, state.best_loss = 1, 0.0
        return state

    monkeypatch.setattr(engine, "restore", restore_with_a_best)
    monkeypatch.setattr(engine, "update", overflowing(at=6))
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file, after_bad_steps="rollback")
    train(values)
    state = json.loads((checkpoints(tmp_path / "run")[-1] / "trainer_state.json").read_text())
    assert state["best_loss"] > 0 and (tmp_path / "run" / f"checkpoint-{state['best_step']}").is_dir()


def gone(best):
    shutil.rmtree(best)


def flipped(best):
    file = best / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1000] ^= 0x40
    file.write_bytes(content)


def cut(best):
    with (best / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(1000)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (gone, "final_model holds the last step: there is no checkpoint-"),
        (flipped, "is not whole (adapter_model.safetensors is damaged); it is kept as damaged-checkpoint-"),
        (cut, "is not whole (adapter_model.safetensors is damaged); it is kept as damaged-checkpoint-"),
    ],
)
def test_final_model_holds_the_last_step_where_the_best_one_is_not_whole(
    tmp_path, tiny_model_dir, alpaca_file, harm, words
):
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file)
    values["training"] |= {"learning_rate": 30.0, "warmup_steps": 8}  # the first evaluation is the best
    said = []
    for event in api.train(values):
        said += [event.text] if isinstance(event, Notice) and "final_model holds" in event.text else []
        if isinstance(event, CheckpointSaved) and event.step == 12:
            harm(tmp_path / "run" / "checkpoint-5")
    assert len(said) == 1 and words in said[0]
    last = load_file(tmp_path / "run" / "checkpoint-12" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, last[name]) for name, tensor in adapter(tmp_path / "run").items())
    assert len(list((tmp_path / "run").glob("damaged-checkpoint-5-*"))) == (harm is not gone)


def test_weights_that_are_not_finite_are_never_saved(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    monkeypatch.setattr(engine, "update", overflowing(at=5))
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file, bad_steps_limit=0)
    values["checkpointing"]["save_steps"] = 5
    with pytest.raises(RunError, match="E-RUN-001"):
        train(values)
    for path in checkpoints(tmp_path / "run"):
        assert all(t.isfinite().all() for t in load_file(path / "adapter_model.safetensors").values())


def test_a_spike_is_reported_or_left_out():
    rng = np.random.default_rng(0)
    state = TrainState()
    for _ in range(FEWEST):
        assert not judge(state, 50.0, 50.0, 1.0).spike, "too few steps to tell"
        remember(state, 2 + 0.1 * rng.standard_normal(), 1 + 0.2 * rng.random())
    for _ in range(200):
        loss, norm = 2 + 0.1 * rng.standard_normal(), 1 + 0.2 * rng.random()
        assert not judge(state, loss, norm, 1.0).spike, "ordinary noise"
        remember(state, loss, norm)
    assert "loss 9" in judge(state, 9.0, 1.1, 1.0).spike
    assert "gradient norm 40" in judge(state, 2.0, 40.0, 0.0).spike and not judge(state, 2.0, 40.0, 0.0).clipped
    assert judge(state, 2.0, 40.0, 1.0).clipped and not judge(state, 9.0, 40.0, 1.0).clipped
    assert not judge(state, 2.0, 40.0, 50.0).spike, "a gradient that is not clipped moves no more than is allowed"
    assert not judge(state, float("nan"), 1.0, 1.0).finite and not judge(state, 2.0, float("inf"), 1.0).finite
    assert len(state.recent_losses) == 64


def test_a_pair_that_is_not_told_apart_yet_is_no_spike():
    """Where all others are, its loss is a thousand times theirs; one above chance is a spike there, too."""
    state = TrainState()
    for step in range(40):
        remember(state, 0.001 + 0.0001 * (step % 3), 0.1)
    assert not judge(state, 0.6, 0.1, 1.0, CHANCE).spike and "loss 0.6" in judge(state, 0.6, 0.1, 1.0).spike
    assert "loss 2" in judge(state, 2.0, 0.1, 1.0, CHANCE).spike


def test_robust_z_is_the_textbook_one():
    past = list(np.random.default_rng(1).normal(5, 2, 33))
    middle = np.median(past)
    sigma = 1.4826 * np.median(np.abs(np.array(past) - middle))
    assert robust_z(11.0, past) == pytest.approx((11.0 - middle) / sigma)


@pytest.mark.parametrize("policy", ["report", "skip"])
def test_spikes_in_a_run(tmp_path, tiny_model_dir, alpaca_file, monkeypatch, policy):
    def backward(*those):
        backward.step += 1
        sums, counted = real_backward(*those)
        return sums * (50 if backward.step == 20 else 1), counted

    backward.step = 0
    monkeypatch.setattr(engine, "backward", backward)
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=22, loss_spikes=policy)
    values["training"]["gradient_accumulation_steps"] = 3
    events = train(values)
    (said,) = [event for event in of(Notice, events) if "usual" in event.text]
    assert re.search(r"step 20: loss .*rows\.jsonl:\d+, \d+, \d+, \d+ and 2 more$", said.text)
    assert len(said.rows) == 6 and all(re.search(r"rows\.jsonl:\d+$", row) for row in said.rows)
    assert (said.change == "training.loss_spikes: skip") == (policy == "report")
    assert (20 in [event.step for event in of(Log, events)]) == (policy == "report")


# --- stops in the middle ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["evaluation", "samples", "last evaluation"])
def test_a_stop_between_steps_loses_nothing(straight, tmp_path, tiny_model_dir, alpaca_file, monkeypatch, where):
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file)
    asked = []
    if where == "samples":
        real = samples.continue_many
        monkeypatch.setattr(
            samples, "continue_many", lambda *a, **k: (asked.append(1) if steps[-1] == 6 else None, real(*a, **k))[1]
        )
    else:
        step = 5 if where == "evaluation" else 12
        real = milestones.evaluate

        def evaluate(model, batches, plan, reference=None):
            def some():
                yield next(batches)
                if steps[-1] == step:
                    asked.append(1)
                yield from batches

            return real(model, some(), plan)

        monkeypatch.setattr(milestones, "evaluate", evaluate)
    steps, events = [0], []
    for event in api.train(values, stop=lambda: bool(asked)):
        events.append(event)
        steps.append(max(getattr(event, "step", None) or 0, steps[-1]))  # a checkpoint arrives steps later
    assert of(RunFinished, events)[0].status == "stopped"
    assert not (tmp_path / "run" / "final_model").exists()
    monkeypatch.undo()
    events += train(values, resume="auto")
    assert losses(tmp_path / "run") == losses(straight[0])
    assert weights(tmp_path / "run") == weights(straight[0])
    written = {(e.step, e.text) for e in of(Sampled, events)}
    assert written == {(e.step, e.text) for e in of(Sampled, straight[1])}


# --- samples ---------------------------------------------------------------------------------------------------------


def test_a_sample_that_cannot_be_written_costs_nothing_else(straight, tmp_path, tiny_model_dir, alpaca_file):
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file)
    values["evaluation"]["sample_prompts"] = ["add two numbers " * 200, "Write a function"]
    with pytest.raises(RefusedError, match="sample-prompts: prompt 1 has "):
        train(values)
    events = train(values, allow=["sample-prompts"], overwrite=True)
    said = [event for event in of(Notice, events) if event.text.startswith("no sample of prompt 1: ModelError")]
    assert [event.step for event in said] == [0, 6, 12]
    assert [(e.step, e.text) for e in of(Sampled, events)] == [(e.step, e.text) for e in of(Sampled, straight[1])]
    assert weights(tmp_path / "run") == weights(straight[0])


def test_the_last_step_is_saved_before_its_samples(tmp_path, tiny_model_dir, alpaca_file):
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=2, warmup_steps=0)
    values["evaluation"] |= {"eval_steps": 0, "sample_steps": []}
    happened = [type(event) for event in train(values) if getattr(event, "step", 0) == 2]
    assert happened.index(CheckpointSaved) < happened.index(Sampled) < happened.index(RunFinished)


def test_a_run_that_stops_early_ends_with_its_samples(tmp_path, tiny_model_dir, alpaca_file):
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file)
    values["evaluation"] |= {"eval_steps": 2, "early_stopping_patience": 1, "early_stopping_threshold": 50.0}
    events = train(values)
    assert of(RunFinished, events)[0].reason.startswith("early stopping") and of(RunFinished, events)[0].step == 4
    assert [event.step for event in of(Sampled, events)] == [0, 4]


# --- saving ----------------------------------------------------------------------------------------------------------


def test_the_first_step_and_the_clock_save_too(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=6)
    values["checkpointing"] = {"save_steps": 100, "save_minutes": 10, "save_total_limit": None}
    values["evaluation"] = {"eval_steps": 0}
    clock = [1000.0]

    class Time:
        monotonic = staticmethod(lambda: clock[0])

    monkeypatch.setattr(saving, "time", Time)
    saved = []
    for event in api.train(values):
        if isinstance(event, Log) and event.step == 3:
            clock[0] += 601
        if isinstance(event, CheckpointSaved):
            saved.append(event.step)
    assert saved == [1, 3, 6]


def test_a_disk_that_is_full_for_a_while_costs_no_step(straight, tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    real, tries = saving.save_checkpoint, []

    def save(*arguments):
        tries.append(arguments[3].step)
        if 1 < len(tries) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(saving, "save_checkpoint", save)
    monkeypatch.setattr(saving, "_FIRST_WAIT", 0.0)
    events = train(ordinary(tmp_path / "run", tiny_model_dir, alpaca_file))
    said = [event for event in of(Notice, events) if event.severity == "critical"]
    assert len(said) == 2
    assert "No space left on device; the newest one is of step 1; training goes on" in said[0].text
    assert tries[:4] == [1, 2, 3, 4], "tried again at the next steps, not only when one is due"
    assert weights(tmp_path / "run") == weights(straight[0])


@pytest.mark.parametrize(
    ("failure", "code"), [(OSError(errno.EDQUOT, "Disk quota exceeded"), "E-RUN-003"), (MemoryError(), "E-RUN-002")]
)
def test_a_stop_that_cannot_be_saved_is_an_error(tmp_path, tiny_model_dir, alpaca_file, monkeypatch, failure, code):
    def save(*_):
        raise failure

    monkeypatch.setattr(saving, "save_checkpoint", save)
    seen = []
    with pytest.raises(RunError) as error:
        for event in api.train(
            ordinary(tmp_path / "run", tiny_model_dir, alpaca_file), stop=lambda: bool(of(Log, seen))
        ):
            seen.append(event)
    assert error.value.problems[0].code == code


def held_up(monkeypatch, until, step=6, error=None):
    """The second half of the checkpoint of a step: later, or never."""
    real = checkpoint.written

    def written(target, fill):
        name_it = real(target, fill)

        def later():
            assert until.wait(60)
            if error:
                raise error
            return name_it()

        return later if target.name == f"checkpoint-{step}" else name_it

    monkeypatch.setattr(checkpoint, "written", written)


def test_steps_go_on_while_a_checkpoint_is_made_whole(straight, tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    until, events = threading.Event(), []
    held_up(monkeypatch, until)
    for event in api.train(ordinary(tmp_path / "run", tiny_model_dir, alpaca_file)):
        events.append(event)
        if isinstance(event, Log) and event.step == 8:
            assert not (tmp_path / "run" / "checkpoint-6").exists()
            until.set()
    order = [(type(event), event.step) for event in events if isinstance(event, Log | CheckpointSaved)]
    assert order.index((CheckpointSaved, 6)) > order.index((Log, 8))
    assert [step for kind, step in order if kind is CheckpointSaved] == [1, 2, 4, 5, 6, 8, 10, 12]
    assert weights(tmp_path / "run") == weights(straight[0])


def test_a_checkpoint_that_fails_on_its_way_costs_no_step(straight, tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    until = threading.Event()
    until.set()
    held_up(monkeypatch, until, error=OSError(errno.ENOSPC, "No space left on device"))
    events = train(ordinary(tmp_path / "run", tiny_model_dir, alpaca_file))
    (said,) = [event for event in of(Notice, events) if event.severity == "critical"]
    assert said.text.startswith("no checkpoint at step 6: No space left on device; the newest one is of step 5; train")
    assert not any(event.step == 6 for event in of(CheckpointSaved, events))
    assert weights(tmp_path / "run") == weights(straight[0])


def test_a_stop_whose_checkpoint_fails_on_its_way_is_an_error(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    until, seen = threading.Event(), []
    until.set()
    held_up(monkeypatch, until, step=2, error=OSError(errno.EDQUOT, "Disk quota exceeded"))
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file)
    with pytest.raises(RunError, match="quota") as error:
        for event in api.train(values, stop=lambda: any(event.step == 2 for event in of(Log, seen))):
            seen.append(event)
    assert error.value.problems[0].code == "E-RUN-003"


def test_a_run_that_fails_leaves_its_checkpoint_whole(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    until, seen = threading.Event(), []
    held_up(monkeypatch, until)
    real = engine.update

    def update(*arguments):
        if seen and seen[-1].step == 7:
            threading.Timer(0.5, until.set).start()
            raise ValueError("no such thing")
        real(*arguments)

    monkeypatch.setattr(engine, "update", update)
    with pytest.raises(RunError, match="no such thing"):
        for event in api.train(ordinary(tmp_path / "run", tiny_model_dir, alpaca_file)):
            if isinstance(event, Log):
                seen.append(event)
    assert not verify(tmp_path / "run" / "checkpoint-6")
    assert not list((tmp_path / "run").glob(".inflight-*"))


def test_two_whole_checkpoints_stay_whatever_the_limit_says(tmp_path, tiny_model_dir, alpaca_file):
    values = ordinary(tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=8)
    values["evaluation"] = {"eval_steps": 0}
    values["checkpointing"] = {"save_steps": 2, "save_total_limit": 1}
    for event in api.train(values):
        if isinstance(event, CheckpointSaved) and event.step == 4:
            (tmp_path / "run" / "checkpoint-4" / "optimizer.json").write_text("{}")
    kept = {path.name: verify(path) for path in checkpoints(tmp_path / "run")}
    assert [name for name, broken in kept.items() if not broken] == ["checkpoint-6", "checkpoint-8"]


def test_a_folder_that_was_about_to_be_replaced_comes_back(tmp_path):
    commit(tmp_path / "final_model", lambda folder: (folder / "a").write_text("old") and None)
    (tmp_path / "final_model").rename(tmp_path / ".replaced-final_model-12345678")  # a kill between the two renames
    (tmp_path / ".inflight-final_model-87654321").mkdir()
    sweep(tmp_path)
    assert (tmp_path / "final_model" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["final_model"]


def test_what_reads_back_damaged_is_no_checkpoint(tmp_path, monkeypatch):
    commit(tmp_path / "x", lambda folder: (folder / "a").write_text("old") and None)
    real = type(tmp_path).rename

    def rename(self, target):
        moved = real(self, target)
        if target == tmp_path / "x" and (target / "a").read_text() == "new":
            (target / "a").write_text("nev")  # a device that does not keep what it was given
        return moved

    monkeypatch.setattr(type(tmp_path), "rename", rename)
    with pytest.raises(OSError, match="reads back damaged"):
        commit(tmp_path / "x", lambda folder: (folder / "a").write_text("new") and None)
    assert (tmp_path / "x" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


# --- hanging ---------------------------------------------------------------------------------------------------------


def test_a_hanging_call_leaves_its_stack(tmp_path):
    dog = Watchdog(tmp_path, 0.2)

    def sleeps_in_vain():
        time.sleep(1.6)

    with dog.watching("a step", 7):
        sleeps_in_vain()
    (said,) = dog.said()
    assert said.step == 7 and said.severity == "warning" and STACKS in said.text
    assert "sleeps_in_vain" in (tmp_path / STACKS).read_text()
    with dog.watching("a step", 8):
        pass
    assert not list(dog.said())
    dog.close()
    assert (tmp_path / STACKS).exists()


def test_stacks_that_were_deleted_are_no_failure(tmp_path):
    dog = Watchdog(tmp_path, 60)
    with dog.watching("a step", 1):
        (tmp_path / STACKS).unlink()
    dog.close()


def test_a_watchdog_that_saw_nothing_leaves_nothing(tmp_path):
    dog = Watchdog(tmp_path, 60)
    with dog.watching("a step", 1):
        pass
    dog.close()
    assert list(tmp_path.iterdir()) == []
    Watchdog(tmp_path / "nowhere", 60).close()
    with Watchdog(tmp_path / "nowhere", 60).watching("a step", 1):
        pass
