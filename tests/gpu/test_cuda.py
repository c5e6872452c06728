"""What only a CUDA device can show: `pytest -m gpu`. Each is compared with the CPU's reference."""

from __future__ import annotations

from functools import partialmethod

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from luthier import api
from luthier.bench.limit import matmul_limit
from luthier.events.types import Log, Notice, RunFinished
from luthier.generate.weights import Base, load_base
from luthier.model import batching
from luthier.model.attention import document_attention
from luthier.model.kernels.choose import triton_pieces
from luthier.model.lean.attention import Flash, Short, attention_for
from luthier.model.lean.graphs import CudaRecorder
from luthier.model.lean.writer import LeanWriter
from luthier.model.sampling import continue_many
from luthier.model.writers import write_lean
from luthier.training.checkpoint import checkpoints
from luthier.training.state import TrainState
from tests.model.test_sampling import PROMPTS
from tests.tiny import build_tokenizer, llama_config
from tests.training.test_resume import config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
OFFSETS = (0, 37, 38, 101, 160)
SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range",
    "tie_word_embeddings",
)  # fmt: skip


@pytest.mark.parametrize("sliding_window", [None, 16])
def test_the_flash_kernel_equals_one_document_at_a_time(sliding_window):
    torch.manual_seed(0)
    shapes = [(1, 8, OFFSETS[-1], 64), (1, 2, OFFSETS[-1], 64), (1, 2, OFFSETS[-1], 64)]
    tensors = [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
    reference = [t.detach().float().cpu().requires_grad_() for t in tensors]
    module = torch.nn.Identity()
    cu_seq_lens = torch.tensor(OFFSETS, dtype=torch.int32, device="cuda")
    fast, _ = document_attention(
        module, *tensors, None, sliding_window=sliding_window, document_offsets=OFFSETS, cu_seq_lens=cu_seq_lens
    )
    slow, _ = document_attention(module, *reference, None, sliding_window=sliding_window, document_offsets=OFFSETS)
    torch.testing.assert_close(fast.float().cpu(), slow, atol=2e-2, rtol=2e-2)
    fast.float().square().sum().backward()
    slow.square().sum().backward()
    for ours, theirs in zip(tensors, reference, strict=True):
        torch.testing.assert_close(ours.grad.float().cpu(), theirs.grad, atol=1e-1, rtol=5e-2)


@pytest.mark.parametrize(
    "changes",
    [{}, {"optim": "paged_adamw_8bit"}, {"gradient_checkpointing": True}, {"lean_path": True}],
    ids=str,
)
def test_a_4_bit_run_learns_stops_and_goes_on(tmp_path, tiny_model_dir, alpaca_file, changes):
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file, **changes)
    values["model"]["dtype"] = "bfloat16"
    values["quantization"] = {"load_in_4bit": True}
    if changes == {"lean_path": True}:
        values["lora"]["lora_dropout"] = 0.0
    steps = [0]
    first = []
    for event in api.train(values, stop=lambda: steps[-1] >= 5):
        steps.append(getattr(event, "step", None) or steps[-1])
        first.append(event)
    assert checkpoints(tmp_path / "run")
    events = [*first, *api.train(values, resume="auto")]
    losses = [event.loss for event in events if isinstance(event, Log)]
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    assert isinstance(events[-1], RunFinished)
    assert events[-1].peak_memory_gib > 0


@pytest.mark.parametrize("window", [None, 16])
def test_flash_attention_by_hand_equals_that_of_autograd(window):
    query = torch.empty(1, 8, 64, device="cuda", dtype=torch.bfloat16)
    found = attention_for(torch.nn.Identity(), 0.2, window, query, key_heads=2)
    assert isinstance(found, Flash)  # it has compared itself with autograd's
    found = attention_for(torch.nn.Identity(), 0.2, window, query, key_heads=2, halves=triton_pieces().attention)
    assert isinstance(found, Short)  # so has it


def test_kernels_for_short_documents_that_are_wrong_make_way_for_flash():
    query = torch.empty(1, 8, 64, device="cuda", dtype=torch.bfloat16)
    attend, attend_backward = triton_pieces().attention

    def twice(*arguments):
        attend_backward(*arguments)
        arguments[-1][0].mul_(2)

    found = attention_for(torch.nn.Identity(), 0.2, None, query, key_heads=2, halves=(attend, twice))
    assert isinstance(found, Flash)


def lean(folder, tiny_model_dir, alpaca_file, load_in_4bit, **training):
    """A config of the lean path in bfloat16."""
    values = config(folder, tiny_model_dir, alpaca_file, lean_path=True, **training)
    values["model"]["dtype"] = "bfloat16"
    values["quantization"] = {"load_in_4bit": load_in_4bit}
    values["lora"]["lora_dropout"] = 0.0
    return values


def losses_of(values, refusal):
    """Of a run in which nothing was refused with these words."""
    events = list(api.train(values))
    assert not [e for e in events if isinstance(e, Notice) and refusal in e.text]
    return [event.loss for event in events if isinstance(event, Log)]


@pytest.mark.parametrize("load_in_4bit", [False, True])
def test_float16_learns_what_bfloat16_does_though_its_scale_overflows(
    tmp_path, tiny_model_dir, alpaca_file, load_in_4bit, monkeypatch
):
    """Recorded, launched and through peft's layers; each begins with a scale that is too large."""
    expected = losses_of(lean(tmp_path / "bfloat16", tiny_model_dir, alpaca_file, load_in_4bit), "lean path")
    start = partialmethod(TrainState.__init__, loss_scale=2.0**24)
    monkeypatch.setattr(TrainState, "__init__", start)
    for number, changes in enumerate(({}, {"cuda_graphs": False}, {"lean_path": False})):
        values = lean(tmp_path / f"{number}", tiny_model_dir, alpaca_file, load_in_4bit)
        values["model"]["dtype"] = "float16"
        values["training"] |= changes
        events = list(api.train(values))
        assert any("too large for float16" in event.text for event in events if isinstance(event, Notice))
        losses = [event.loss for event in events if isinstance(event, Log)]
        assert losses == pytest.approx(expected, abs=5e-2), changes


@pytest.fixture
def qwen3_dir(tmp_path):
    """The tiny Llama's sizes with norms on heads."""
    folder = tmp_path / "qwen3"
    build_tokenizer(folder)
    sizes = {name: value for name, value in llama_config().to_dict().items() if name in SHARED}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=16)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["bfloat16", "4 bits", "8 bits", "qwen3"])
def test_recorded_passes_give_the_losses_of_launched_ones(tmp_path, request, alpaca_file, kind, monkeypatch):
    if kind == "8 bits" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs compute capability 8.9")
    model_dir = request.getfixturevalue("qwen3_dir" if kind == "qwen3" else "tiny_model_dir")
    losses, replayed, record = [], [], CudaRecorder.__call__

    def recorded(self, work):
        replay = record(self, work)
        return lambda: replayed.append(id(replay)) or replay()

    monkeypatch.setattr(CudaRecorder, "__call__", recorded)
    for cuda_graphs in (True, False):
        values = lean(tmp_path / str(cuda_graphs), model_dir, alpaca_file, kind == "4 bits", cuda_graphs=cuda_graphs)
        if kind == "8 bits":
            values["quantization"] = {"base_precision": "fp8"}
        values["training"]["max_steps"] = 40  # of few rows each: sizes come again
        losses.append(losses_of(values, "launched anew"))
        if cuda_graphs:
            assert len(set(replayed)) >= 2, "that of the proof and one of the run at least"
            assert len(replayed) > 20
            replayed.clear()
    assert not replayed
    assert losses[0] == pytest.approx(losses[1], abs=2e-2)


def test_a_recording_on_the_device_is_replayed_with_other_tokens():
    values = torch.arange(4.0, device="cuda")
    replay = CudaRecorder()(lambda: (values * 2).sum())
    assert replay().item() == 12.0
    values.add_(1)
    assert replay().item() == 20.0


def test_the_loss_on_the_gpu_is_that_on_the_cpu(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    values = config(tmp_path / "gpu", tiny_model_dir, alpaca_file)
    values["lora"]["lora_dropout"] = 0.0
    on_gpu = [event.loss for event in api.train(values) if isinstance(event, Log)]
    monkeypatch.setattr("luthier.machine.probe.best_device", lambda: "cpu")
    values["training"]["output_dir"] = str(tmp_path / "cpu")
    on_cpu = [event.loss for event in api.train(values) if isinstance(event, Log)]
    assert on_gpu == pytest.approx(on_cpu, abs=2e-3)


def test_the_lean_path_on_the_gpu_gives_the_losses_of_pefts_layers(tmp_path, tiny_model_dir, alpaca_file):
    losses = []
    for lean_path in (True, False):
        values = config(tmp_path / str(lean_path), tiny_model_dir, alpaca_file, lean_path=lean_path)
        values["model"]["dtype"] = "bfloat16"
        values["lora"]["lora_dropout"] = 0.0
        losses.append([event.loss for event in api.train(values) if isinstance(event, Log)])
    assert losses[0] == pytest.approx(losses[1], abs=2e-2)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="needs compute capability 8.9"
)
def test_8_bit_floats_give_the_losses_of_the_plain_reference(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    losses = {}
    for name, device in (("kernels", "cuda"), ("torch", "cuda"), ("plain", "cpu")):
        monkeypatch.setattr("luthier.machine.probe.best_device", lambda device=device: device)
        values = config(tmp_path / name, tiny_model_dir, alpaca_file, kernels=name == "kernels")
        values["model"]["dtype"] = "bfloat16"
        values["quantization"] = {"base_precision": "fp8"}
        values["lora"]["lora_dropout"] = 0.0
        losses[name] = losses_of(values, "kernels do not work")
    assert losses["kernels"] == pytest.approx(losses["torch"], abs=2e-2)
    assert losses["kernels"] == pytest.approx(losses["plain"], abs=4e-2)
    assert losses["kernels"][-1] < losses["kernels"][0]


@pytest.mark.parametrize("load_in_4bit", [False, True], ids=["bfloat16", "4 bits"])
def test_kernels_give_the_losses_of_plain_torch(tmp_path, tiny_model_dir, alpaca_file, load_in_4bit):
    losses = []
    for kernels in (True, False):
        values = lean(tmp_path / str(kernels), tiny_model_dir, alpaca_file, load_in_4bit, kernels=kernels)
        losses.append(losses_of(values, "kernels do not work"))
    assert losses[0] == pytest.approx(losses[1], abs=2e-2)


@pytest.mark.parametrize("quantization", [None, {}], ids=["float32", "4 bits"])
def test_recorded_steps_write_what_its_own_layers_write(tiny_model_dir, quantization, monkeypatch):
    """Three rows at once, of which others take the places when they meet a token that some of them write early."""
    model = load_base(Base(str(tiny_model_dir), dtype="float32", quantization=quantization))
    stops = [399, continue_many(model, PROMPTS[:1], [399], 24)[0][4]]
    expected = continue_many(model, PROMPTS, stops, 24)
    monkeypatch.setattr(batching, "MAX_BATCH", 3)
    recorded, record = [], LeanWriter._record

    def counted(self, cache):
        record(self, cache)
        recorded.append(cache.replay is not None)

    monkeypatch.setattr(LeanWriter, "_record", counted)
    write_lean(model)
    assert continue_many(model, PROMPTS, stops, 24) == expected
    assert recorded and all(recorded) and len(recorded) < 5, "as many rows go on in the recording that there is"


def test_the_limit_counts_no_launches():
    config = llama_config(hidden_size=1024, intermediate_size=4096, num_hidden_layers=1)
    limit = matmul_limit(config, torch.bfloat16, 2048, "cuda")
    x, w = (torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    x @ w
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(20):
        x @ w
    end.record()
    end.synchronize()
    large = 20 * 2 * 4096**3 / (start.elapsed_time(end) / 1000)
    assert 0.2 * large < limit < 1.5 * large
