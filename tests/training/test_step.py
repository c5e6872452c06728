"""Loss and gradients of an optimizer step, against plain transformers on the same rows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from luthier import api
from luthier.data.collate import collate_packed
from luthier.events.types import Notice, Resumed
from luthier.model.forward import autocast, summed_loss
from luthier.model.load import load_model
from luthier.training import engine
from luthier.training.objective import widest
from luthier.training.step import Numbers, backward, evaluate, nan_unless_finite, norm_of_gradients
from tests.rows import MemoryRows, micro_batches, plan_for
from tests.training.test_resume import config

ROWS = MemoryRows(16)


def model_for(folder, **keys):
    plan = plan_for(folder, ROWS, val_set_size=0, **keys)
    torch.manual_seed(0)
    return plan, load_model(plan, AutoConfig.from_pretrained(folder))


def trained_gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def our_gradients(folder, scale=1.0, **keys):
    plan, model = model_for(folder, **keys)
    batches = micro_batches(ROWS, range(16), plan, plan.config.training.per_device_train_batch_size)
    sums, counted = backward(model, batches, plan, loss_scale=scale)
    return sums[0].item() / counted.losses, trained_gradients(model), len(batches)


def plain_loss(model, indices):
    """Each row alone through transformers' own loss, as a sum."""
    total = 0.0
    for index in indices:
        row = ROWS.members(index)[0]
        ids = torch.tensor(row.input_ids, dtype=torch.long)[None]
        labels = torch.where(torch.tensor(row.trained)[None], ids, -100)
        total = total + model(input_ids=ids, labels=labels).loss * (labels[:, 1:] != -100).sum()
    return total


@pytest.mark.parametrize("quantized", [False, True], ids=["float32", "nf4"])
def test_loss_and_gradients_equal_plain_transformers(tiny_model_dir, quantized):
    loss, gradients, _ = our_gradients(tiny_model_dir, load_in_4bit=str(quantized).lower())
    _, plain = model_for(tiny_model_dir, load_in_4bit=str(quantized).lower(), packing="false")
    expected = plain_loss(plain, range(16)) / ROWS.trained.sum()
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    for name, gradient in trained_gradients(plain).items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)


def test_full_fine_tuning_equals_plain_transformers(tiny_model_dir):
    loss, gradients, _ = our_gradients(tiny_model_dir, finetuning_type="full")
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    expected = plain_loss(plain, range(16)) / ROWS.trained.sum()
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    for name, gradient in trained_gradients(plain).items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)


def test_the_split_into_micro_batches_changes_nothing(tiny_model_dir):
    """16 x 1, 4 x 4 and 1 x 16, packed and padded, and many token budgets: one gradient."""
    reference, expected, _ = our_gradients(
        tiny_model_dir, per_device_train_batch_size=16, gradient_accumulation_steps=1
    )
    counts = set()
    for keys in (
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16},
        {"tokens": 40},
        {"tokens": 100},
        {"packing": "false", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
        {"packing": "false", "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1},
        {"gradient_checkpointing": "true"},
    ):
        loss, gradients, count = our_gradients(tiny_model_dir, **keys)
        counts.add(count)
        assert loss == pytest.approx(reference, abs=1e-6), keys
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4, msg=f"{keys} {name}")
    assert len(counts) >= 3, "the cases must really differ in their micro-batches"


@pytest.mark.parametrize("sliding_window", [None, 5])
def test_changing_document_1_leaves_document_2_alone_bit_for_bit(tmp_path, sliding_window):
    from tests.tiny import build_model

    build_model(tmp_path)
    _, model = model_for(tmp_path)
    first, second = ROWS.members(0)[0], ROWS.members(1)[0]
    changed = type(first)(first.input_ids[::-1].copy(), first.trained)
    states = []
    with torch.no_grad():
        for one in (first, changed):
            batch = collate_packed([one, second])
            inputs = batch.model_inputs()
            states.append(model.get_base_model().get_decoder()(**inputs, use_cache=False).last_hidden_state[0])
    at = len(first.input_ids)
    assert not torch.equal(states[0][:at], states[1][:at])
    assert torch.equal(states[0][at:], states[1][at:])


def test_sliding_windows_are_honoured(tmp_path):
    """A Mistral with a window shorter than the rows: packed equals transformers' own, one row at a time."""
    from transformers import MistralConfig, MistralForCausalLM

    from tests.tiny import build_tokenizer

    build_tokenizer(tmp_path)
    torch.manual_seed(0)
    MistralForCausalLM(
        MistralConfig(vocab_size=400, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                      num_key_value_heads=2, sliding_window=4, initializer_range=0.2)
    ).save_pretrained(tmp_path)  # fmt: skip
    loss, _, _ = our_gradients(tmp_path, finetuning_type="full")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loss == pytest.approx((plain_loss(plain, range(16)) / ROWS.trained.sum()).item(), abs=1e-5)


def test_evaluation_does_not_disturb_training_on_4_bit_weights(tiny_model_dir):
    """bitsandbytes repacks 4-bit weights on CPU in evaluation mode, and gradients then silently vanish."""
    plan, model = model_for(tiny_model_dir, load_in_4bit="true")
    batches = micro_batches(ROWS, range(16), plan, 4)
    backward(model, batches, plan)
    before = trained_gradients(model)
    model.zero_grad(set_to_none=True)
    (loss_sum,), counted = evaluate(model, batches, plan)
    assert model.training
    backward(model, batches, plan)
    for name, gradient in trained_gradients(model).items():
        assert torch.equal(gradient, before[name]), name
    wanted = sum(summed_loss(model, b).item() for b in batches) / counted.trained_tokens
    assert loss_sum / counted.losses == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("norm", [0.1, 3.0e-39, float("inf"), float("nan")])
def test_loss_and_norm_are_read_as_they_are(norm):
    sums, length = torch.tensor([1 / 3, -7.0], dtype=torch.float64), torch.tensor(norm)
    numbers, found = Numbers(sums, length).read()
    assert numbers == sums.tolist()
    assert found == pytest.approx(length.item(), abs=0, rel=0, nan_ok=True)


@pytest.mark.parametrize("loss", [0.0, -2.5, 1e300, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("norm", [0.0, 0.1, 3.0e-39, float("inf"), float("nan")])
def test_a_step_is_applied_by_the_device_if_the_host_would_call_it_finite(loss, norm):
    sums, length = torch.tensor([loss, 1.0], dtype=torch.float64), torch.tensor(norm)
    found = nan_unless_finite(length, sums)
    assert found.dtype is torch.float32
    if math.isfinite(loss) and math.isfinite(norm):
        assert torch.equal(found, length)
    else:
        assert not found.isfinite()


class Transfers(TorchDispatchMode):
    """Whether each transfer to the host is one that nobody waits for; zeros arrive."""

    def __init__(self):
        super().__init__()
        self.without_waiting = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is not torch.ops.aten._to_copy.default or kwargs.get("device") != torch.device("cpu"):
            return function(*args, **(kwargs or {}))
        self.without_waiting.append(kwargs.get("non_blocking", False))
        return torch.zeros(args[0].shape, dtype=args[0].dtype)


def test_where_no_event_tells_that_numbers_have_arrived_they_are_waited_for():
    """As on mps, which would go on before they are there."""
    with Transfers() as transfers:
        Numbers(torch.zeros(2, device="meta"), torch.zeros((), device="meta")).read()
    assert transfers.without_waiting == [False]


class Readings(TorchDispatchMode):
    """How often the device would have been waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("lean_path", ["true", "false"])
def test_nothing_is_read_until_the_norm_is_queued(tiny_model_dir, lean_path):
    plan, model = model_for(tiny_model_dir, lean_path=lean_path)
    batches = micro_batches(ROWS, range(16), plan, 4)
    with Readings() as readings:
        backward(model, batches, plan)
        norm_of_gradients([p for p in model.parameters() if p.requires_grad], plan)
        assert readings.count == 0
        torch.zeros(()).item()
    assert readings.count == 1


def test_what_a_run_trains_are_the_models_parameters_at_every_step(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    """Through smaller passes, a way back to a checkpoint, a stop and a resume; with norms, which are decayed apart."""
    of_the_engine, checked = engine.optimizer_step, []

    def optimizer_step(job, batches, coming):
        if len(checked) == 2:
            job.lower(replace(job.plan.passes, micro_batch_tokens=100))
        yield from of_the_engine(job, batches, coming)
        wanted = [p for p in job.model.parameters() if p.requires_grad]
        checked.append([id(p) for p in job.trained] == [id(p) for p in wanted] and len(wanted) > 5)

    def lost(model, *arguments):
        sums = backward(model, *arguments)
        if len(checked) in (6, 7):
            next(model.parameters()).grad.view(-1)[0] = float("nan")
        return sums

    monkeypatch.setattr(engine, "optimizer_step", optimizer_step)
    monkeypatch.setattr(engine, "backward", lost)
    options = {"finetuning_type": "full", "bad_steps_limit": 1, "after_bad_steps": "rollback"}
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file, **options)
    events = list(api.train(values, stop=lambda: len(checked) >= 10))
    assert any("back to step" in event.text for event in events if isinstance(event, Notice))
    assert any(isinstance(event, Resumed) for event in list(api.train(values, resume="auto")))
    assert len(checked) > 12 and all(checked)


@pytest.mark.parametrize("lean", ["true", "false"])
def test_the_loss_scale_changes_no_digit(tiny_model_dir, lean):
    """A power of two, as long as no number leaves the format: bfloat16 has the range of float32."""
    found = [
        our_gradients(tiny_model_dir, dtype="bfloat16", lean_path=lean, scale=scale)[1] for scale in (1.0, 2.0**14)
    ]
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_pass_of_16_bits_does_not_round_the_mean(tiny_model_dir, kind):
    """One factor in 16 bits would be off by up to 0.2 %, in all gradients of a step alike."""
    keys = {"dtype": "bfloat16", "finetuning_type": kind, "lean_path": "false"}
    _, gradients, passes = our_gradients(tiny_model_dir, **keys)
    assert passes == 1
    plan, model = model_for(tiny_model_dir, **keys)
    with autocast(plan):
        loss = summed_loss(model, *micro_batches(ROWS, range(16), plan, 4))
    loss.backward()
    factors = [
        float((gradients[name].double() * exact).sum() / exact.double().square().sum()) * int(ROWS.trained.sum())
        for name, exact in trained_gradients(model).items()
        if exact.any()
    ]
    assert factors == pytest.approx([1.0] * len(factors), abs=2e-5)


def test_losses_are_added_in_a_format_that_the_device_has():
    with FakeTensorMode():  # shapes and formats of a Mac's GPU, without one
        assert widest(torch.device("mps")) == torch.float32
    assert widest(torch.device("cpu")) == torch.float64
