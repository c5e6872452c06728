"""What only a card can show: the same bits twice, memory that runs out, is foretold or asked for. `pytest -m gpu`."""

from __future__ import annotations

import gc
import json
import random

import pytest
import torch

from luthier import api
from luthier.events.types import Log, Notice, Rehearsed, RunFinished
from luthier.model.kernels.choose import triton_pieces
from luthier.model.lean.attention import Flash, Recomputed, Short, attention_for
from luthier.model.lean.graphs import CudaRecorder, Graphs
from luthier.training import engine
from tests.tiny import WORDS, build_model
from tests.training.test_resume import config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A Llama whose passes are far larger than its weights."""
    folder = tmp_path_factory.mktemp("promises") / "model"
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 8}
    build_model(folder, **sizes, max_position_embeddings=1024, initializer_range=0.02)
    return folder


@pytest.fixture(scope="module")
def rows(model_dir):
    """Documents of several blocks of the flash kernel: 300 to 800 tokens."""
    rng, path = random.Random(0), model_dir.parent / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(96):
            text = " ".join(rng.choices(WORDS, k=rng.randint(250, 600)))
            file.write(json.dumps({"instruction": f"{number}", "input": "", "output": text}) + "\n")
    return path


def values_of(folder, model_dir, rows, quantization=None, **training):
    sizes = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_tokens_per_micro_batch": 8192}
    values = config(folder, model_dir, rows, lean_path=True, **sizes, **training)
    values["model"]["dtype"] = "bfloat16"
    values["quantization"] = quantization or {}
    values["lora"]["lora_dropout"] = 0.0
    values["data"]["max_seq_length"] = 1024
    return values


def clean():
    """Bytes that are still held when all that can go has gone."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def refused_recording():
    """One in which the device is waited for, which CUDA does not allow."""
    values = torch.arange(4.0, device="cuda")
    with pytest.raises(RuntimeError):
        CudaRecorder()(lambda: values.sum() * values.sum().item())


@pytest.mark.parametrize("kind", [Short, Flash, Recomputed])
def test_attention_of_several_blocks_has_the_same_bits_each_time(kind):
    torch.manual_seed(0)
    heads = tuple(torch.randn(4800, count, 64, device="cuda", dtype=torch.bfloat16) for count in (8, 2, 2))
    grad, offsets = torch.randn_like(heads[0]), tuple(range(0, 4801, 600))
    starts = torch.tensor(offsets, dtype=torch.int32, device="cuda")
    inputs = {"document_offsets": offsets, "cu_seq_lens": starts, "longest": 600}
    attention = Recomputed(torch.nn.Identity(), 0.125, None)
    if kind is not Recomputed:
        halves = triton_pieces().attention if kind is Short else None
        attention = attention_for(torch.nn.Identity(), 0.125, None, heads[0], key_heads=2, halves=halves)
        assert isinstance(attention, kind)

    def gradients():
        output, kept = attention.forward(heads, inputs)
        out = tuple(torch.full_like(x, torch.nan) for x in heads)
        attention.backward(grad, heads, kept, inputs, out)
        return [output, *out]

    first = gradients()
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
    assert torch.get_deterministic_debug_mode() == 0


@pytest.mark.parametrize("changes", [{}, {"cuda_graphs": False}, {"lean_path": False}], ids=str)
def test_a_run_has_the_same_bits_twice_and_after_a_stop(tmp_path, model_dir, rows, changes):
    finals = {}
    for name, last in (("once", 99), ("twice", 99), ("stopped", 5)):
        values, steps = values_of(tmp_path / name, model_dir, rows), [0]
        values["training"] |= changes
        for event in api.train(values, stop=lambda steps=steps, last=last: steps[-1] >= last):
            steps.append(getattr(event, "step", None) or steps[-1])
        if name == "stopped":
            list(api.train(values, resume="auto"))
        finals[name] = (tmp_path / name / "final_model" / "adapter_model.safetensors").read_bytes()
    assert finals["once"] == finals["twice"], "the arithmetic is not repeatable"
    assert finals["once"] == finals["stopped"], "the resume is not exact"


def test_passes_that_begin_ahead_change_no_bit_and_are_computed_once(tmp_path, model_dir, rows, monkeypatch):
    finals, replayed, ahead = [], [], []
    run, record = Graphs.run, CudaRecorder.__call__

    def counted(self, work):
        replay = record(self, work)
        return lambda: replayed.append(1) or replay()

    def asked(self, batch):
        before, begun = len(replayed), self._next is not None and self._next.loss is not None
        loss = run(self, batch)
        ahead.extend([len(replayed) - before] * begun)
        return loss

    monkeypatch.setattr(CudaRecorder, "__call__", counted)
    monkeypatch.setattr(Graphs, "run", asked)
    for name in ("ahead", "in turn"):
        if name == "in turn":
            monkeypatch.setattr(engine, "follows_at_once", lambda job: False)
        ahead.clear()
        events = list(api.train(values_of(tmp_path / name, model_dir, rows, max_steps=40)))
        assert all(event.step_seconds > 0 for event in events if isinstance(event, Log))
        assert bool(ahead) == (name == "ahead") and not any(ahead), "a begun pass was computed again"
        finals.append((tmp_path / name / "final_model" / "adapter_model.safetensors").read_bytes())
    assert finals[0] == finals[1]


def test_rows_that_are_padded_train(tmp_path, model_dir, rows):
    sizes = {"max_tokens_per_micro_batch": "auto", "per_device_train_batch_size": 4}
    values = config(tmp_path / "run", model_dir, rows, packing=False, max_steps=4, **sizes)
    values["model"]["dtype"] = "bfloat16"
    values["data"]["max_seq_length"] = 1024
    assert len(losses_in(api.train(values))) == 4


def test_a_recording_that_cuda_refuses_leaves_the_device_as_it_was():
    stream = torch.cuda.current_stream()
    refused_recording()
    assert torch.cuda.current_stream() == stream
    torch.cuda.synchronize()  # as recordings before it are waited for
    torch.cuda.empty_cache()  # the allocator would call it a recording still
    state = torch.cuda.get_rng_state()
    drawn = torch.rand(3, device="cuda")
    torch.cuda.set_rng_state(state)
    assert torch.equal(drawn, torch.rand(3, device="cuda"))


def test_recordings_of_one_run_do_not_hang_on_those_of_another():
    a, b = torch.randn(2, 512, 512, device="cuda")
    expected = (b @ a).sum()  # also makes cuBLAS's handle, which no recording can
    records = CudaRecorder(), CudaRecorder()
    gone, stays = records[0](lambda: (a @ b).sum()), records[1](lambda: (b @ a).sum())
    assert torch.allclose(gone(), (a @ b).sum(), rtol=1e-3)
    del gone
    gc.collect()
    torch.cuda.empty_cache()  # with cuBLAS's memory of the other one's stream
    records[1](lambda: (a @ a).sum())()
    for _ in range(3):
        assert torch.allclose(stays(), expected, rtol=1e-3)


def test_the_allocator_holds_little_that_is_not_used(tmp_path, model_dir, rows):
    """Passes of many sizes, launched and recorded: each wants pieces of its own."""
    clean()
    list(api.train(values_of(tmp_path / "run", model_dir, rows, max_steps=40)))
    assert any(segment["is_expandable"] for segment in torch.cuda.memory_snapshot())
    assert torch.cuda.max_memory_reserved() < 1.3 * torch.cuda.max_memory_allocated()


def out_of_memory_in(events):
    return [event.text for event in events if isinstance(event, Notice) and "ran out of memory" in event.text]


def losses_in(events):
    return [event.loss for event in events if isinstance(event, Log)]


@pytest.fixture
def short_of_memory():
    """Lets torch have so many bytes of the device, until the test is over."""

    def allow(count):
        torch.cuda.set_per_process_memory_fraction(count / torch.cuda.get_device_properties(0).total_memory)

    yield allow
    torch.cuda.set_per_process_memory_fraction(1.0)


def memory_of_a_pass(folder, model_dir, rows, **training):
    """Bytes that a run holds between passes, and that a pass takes besides; and the losses of the run."""
    clean()
    events, held = [], 0
    for event in api.train(values_of(folder, model_dir, rows, cuda_graphs=False, rehearsal=False, **training)):
        events.append(event)
        held = torch.cuda.memory_allocated() if isinstance(event, Log) else held
    return held, torch.cuda.max_memory_allocated() - held, losses_in(events)


@pytest.mark.parametrize("refused", [False, True], ids=["as it is", "after a recording that was refused"])
def test_memory_that_runs_out_costs_large_passes_and_no_loss(tmp_path, model_dir, rows, short_of_memory, refused):
    held, of_a_pass, losses = memory_of_a_pass(tmp_path / "room", model_dir, rows)
    if refused:
        refused_recording()
    clean()
    short_of_memory(held + 0.6 * of_a_pass)
    events = list(api.train(values_of(tmp_path / "short", model_dir, rows, rehearsal=False)))
    assert "passes of at most" in out_of_memory_in(events)[0]
    assert isinstance(events[-1], RunFinished) and events[-1].status == "done"
    assert losses_in(events) == pytest.approx(losses, abs=2e-2)


def test_memory_that_runs_out_later_costs_recordings_first(tmp_path, model_dir, rows, short_of_memory, monkeypatch):
    _, of_a_pass, losses = memory_of_a_pass(tmp_path / "room", model_dir, rows, max_steps=40)
    recorded, record, events, short = [], CudaRecorder.__call__, [], False
    monkeypatch.setattr(CudaRecorder, "__call__", lambda self, work: recorded.append(1) or record(self, work))
    clean()
    values = values_of(tmp_path / "short", model_dir, rows, rehearsal=False, max_steps=40)
    for event in api.train(values):
        events.append(event)
        if isinstance(event, Log) and len(recorded) >= 2 and not short:  # that of the proof, and one of the run
            torch.cuda.empty_cache()  # what is left reserved belongs to the run and to its recordings
            short_of_memory(torch.cuda.memory_reserved() + 0.3 * of_a_pass)
            short = True
    assert short, "no pass was recorded"
    assert "without recorded passes" in out_of_memory_in(events)[0]
    assert isinstance(events[-1], RunFinished) and events[-1].status == "done"
    assert losses_in(events) == pytest.approx(losses, abs=2e-2)


@pytest.mark.parametrize(
    "quantization", [{}, {"load_in_4bit": True}, {"base_precision": "fp8"}], ids=["bfloat16", "4 bits", "8 bits"]
)
def test_the_forecast_is_what_the_allocator_counts(tmp_path, model_dir, rows, quantization):
    if "base_precision" in quantization and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs compute capability 8.9")
    before = clean() / 2**30
    values = values_of(tmp_path / "run", model_dir, rows, quantization, rehearsal=True)
    (found,) = [event for event in api.train(values) if isinstance(event, Rehearsed)]
    assert found.predicted_gib == pytest.approx(found.measured_gib - before, rel=0.15), found.parts


def test_a_run_holds_no_more_than_it_was_asked_to(tmp_path, model_dir, rows):
    held = {}
    for asked in ("auto", 0.4, 0.25):
        before = clean() / 2**30
        values = values_of(tmp_path / str(asked), model_dir, rows, {"load_in_4bit": True}, rehearsal=True)
        values["training"] |= {"max_tokens_per_micro_batch": "auto", "memory_gib": asked}
        (found,) = [event for event in api.train(values) if isinstance(event, Rehearsed)]
        held[asked] = found.measured_gib - before
        assert asked == "auto" or max(found.predicted_gib, held[asked]) <= asked
    assert held[0.25] < held[0.4] < held["auto"], "more room is used"
