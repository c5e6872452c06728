"""The lean path on kernels: the gradients of the model's own layers, and plain torch where kernels fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig

from luthier import api
from luthier.data.collate import collate_packed
from luthier.events.types import Log, Notice
from luthier.model import attention
from luthier.model.forward import lean_of, summed_loss
from luthier.model.kernels import choose
from luthier.model.lean.attention import Flash, Short, _works
from luthier.model.lean.decoder import LeanDecoder
from luthier.model.lean.pieces import PLAIN
from luthier.model.lean.proof import prove_lean
from luthier.model.unpacking import unpack_rightly
from tests.model.kernels.support import DEVICE, ON_GPU
from tests.model.kernels.support import pytestmark as marks
from tests.model.lean.test_decoder import EXACT, MODELS, SIZES, build, gradients, lean_loss, rows, worst
from tests.model.support import loaded_model
from tests.training.test_resume import config

pytestmark = marks()
unpack_rightly()


@pytest.fixture(scope="module")
def triton():
    return choose.triton_pieces()


@pytest.mark.skipif(ON_GPU, reason="flash attention knows no float64; -m gpu compares whole runs")
@pytest.mark.parametrize(("kind", "checkpointed"), [("llama, biased and tied", 0), ("mistral", 2), ("qwen3", 1)])
def test_loss_and_every_gradient_are_those_of_the_models_own_layers(triton, kind, checkpointed):
    model = build(kind)
    batch = collate_packed(rows(2))
    loss = summed_loss(model, batch)
    wanted = gradients(model, loss)
    decoder = LeanDecoder(model.get_base_model(), torch.float64, pieces=triton)
    decoder.checkpointed_layers = checkpointed
    found = lean_loss(decoder, batch)
    assert found.item() == pytest.approx(loss.item(), rel=1e-9)
    assert worst(gradients(model, found), wanted) < EXACT
    with torch.no_grad():
        assert lean_loss(decoder, batch).item() == pytest.approx(loss.item(), rel=1e-9)


@pytest.mark.skipif(ON_GPU, reason="-m gpu compares whole runs")
@pytest.mark.parametrize("kind", ["llama", "qwen2, windowed"])
def test_with_attention_among_short_documents_too(triton, kind):
    model = build(kind)
    batch = collate_packed(rows(3))
    loss = summed_loss(model, batch)
    wanted = gradients(model, loss)
    decoder = LeanDecoder(model.get_base_model(), torch.float64, pieces=triton)
    for layer in decoder.layers:
        layer.attention = Short(triton.attention, Flash(layer.attention.scaling, layer.attention.window))
    found = lean_loss(decoder, batch)
    assert found.item() == pytest.approx(loss.item(), rel=1e-9)
    assert worst(gradients(model, found), wanted) < EXACT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_of_a_function_of_the_tokens_losses_are_those_of_plain_torch(triton, dtype):
    model, batch = build(dtype=dtype).to(DEVICE), collate_packed(rows(3)).to(torch.device(DEVICE))
    found = []
    for pieces in (triton, PLAIN):
        decoder = LeanDecoder(model.get_base_model(), dtype, pieces=pieces)
        losses = decoder.token_losses(batch.model_inputs(), batch.positions_N, batch.targets_N)
        weights = torch.linspace(-1, 2, len(losses), device=DEVICE)
        found.append((losses.detach().clone(), gradients(model, ((losses * weights).sum() / 100).sigmoid())))
    (ours, own), (theirs, other) = found
    rounding = 1e-5 if dtype is torch.float32 else 0.05
    torch.testing.assert_close(ours, theirs, rtol=rounding, atol=rounding)
    assert worst(own, other) < (1e-4 if dtype is torch.float32 else 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_proof_passes(triton, dtype):
    model = build(dtype=dtype).to(DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        prove_lean(model, LeanDecoder(model.get_base_model(), dtype, pieces=triton), dtype)


@pytest.mark.parametrize("keep", [True, False], ids=["unpacked once", "at each use"])
def test_4_bit_weights(tmp_path, triton, keep):
    configuration, model, _ = MODELS["llama"]
    torch.manual_seed(0)
    model(configuration(**SIZES)).save_pretrained(tmp_path)
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = model.from_pretrained(tmp_path, quantization_config=four_bit, dtype=torch.float32, device_map=DEVICE)
    base.requires_grad_(False)
    get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    base.set_attn_implementation(attention.NAME)
    kernels, plain = (LeanDecoder(base, torch.float32, keep_unpacked=keep, pieces=p) for p in (triton, PLAIN))
    for ours, theirs in zip(kernels.layers, plain.layers, strict=True):
        for one, other in zip(ours.stacks, theirs.stacks, strict=True):
            assert torch.equal(one.weight(), other.weight())


def test_only_cuda_gets_kernels_and_only_where_triton_is(monkeypatch, triton):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose.candidates(cpu, True) == (PLAIN,)
    assert choose.candidates(cuda, True) == (triton, PLAIN)
    assert choose.candidates(cuda, False) == (PLAIN,)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose.candidates(cuda, True) == (PLAIN,)


def losses_of(folder, model, alpaca, **changes):
    small = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": 2, "warmup_steps": 0}
    values = config(folder, model, alpaca, lean_path=True, rehearsal=False, **small, **changes)
    values["evaluation"]["eval_steps"] = 0
    values["lora"]["lora_dropout"] = 0.0
    events = list(api.train(values))
    return [e.loss for e in events if isinstance(e, Log)], [e for e in events if isinstance(e, Notice)]


@pytest.mark.slow
@pytest.mark.skipif(ON_GPU, reason="-m gpu does it without a patch")
def test_a_run_on_kernels_has_the_losses_of_plain_torch(tmp_path, tiny_model_dir, alpaca_file, monkeypatch, triton):
    plain, _ = losses_of(tmp_path / "plain", tiny_model_dir, alpaca_file)
    monkeypatch.setattr("luthier.model.load.candidates", lambda device, wanted: (triton, PLAIN))
    used, notices = losses_of(tmp_path / "triton", tiny_model_dir, alpaca_file)
    assert used == pytest.approx(plain, abs=1e-5)
    assert len(used) == 2 and used[-1] != used[0]
    assert not [notice for notice in notices if "kernels" in notice.text]


def broken(kind, triton):
    if kind == "wrong numbers":
        return replace(triton, swiglu=lambda x: 2 * triton.swiglu(x))
    if kind == "wrong update":
        return replace(triton, adamw=lambda *tensors, **settings: triton.adamw(*tensors, **settings | {"max_norm": 0}))

    def fails(*_):
        raise RuntimeError("Failed to find C compiler.\nSecond \x1b[31mline")

    return replace(triton, rms_norm=fails)


@pytest.mark.skipif(ON_GPU, reason="it loads a model on the CPU, where only the interpreter runs kernels")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("wrong numbers", "differ by"),
        ("wrong update", "the update differs by"),
        ("no compiler", "Failed to find C compiler. Second [31mline"),
    ],
)
def test_kernels_that_fail_make_way_for_plain_torch(tiny_model_dir, monkeypatch, triton, kind, reason):
    monkeypatch.setattr("luthier.model.load.candidates", lambda device, wanted: (broken(kind, triton), PLAIN))
    _, model = loaded_model(tiny_model_dir, lean_path=True)
    lean = lean_of(model)
    assert lean.pieces is PLAIN
    assert reason in lean.refused


@pytest.mark.skipif(ON_GPU, reason="it loads a model on the CPU, where only the interpreter runs kernels")
def test_memory_that_runs_out_is_no_fault_of_the_kernels(tiny_model_dir, monkeypatch, triton):
    def fails(*_):
        raise RuntimeError("Triton Error [CUDA]: out of memory")

    without_memory = replace(triton, rms_norm=fails)
    monkeypatch.setattr("luthier.model.load.candidates", lambda device, wanted: (without_memory, PLAIN))
    with pytest.raises(RuntimeError, match="out of memory"):
        loaded_model(tiny_model_dir, lean_path=True)


def test_memory_that_runs_out_is_no_fault_of_attention(monkeypatch):
    def fails(*_):
        raise torch.AcceleratorError("CUDA error: out of memory")

    monkeypatch.setattr(Flash, "forward", fails)
    with pytest.raises(torch.AcceleratorError):
        _works(Flash(0.25, None), torch.device("cpu"), torch.float32, (2, 1, 16))


def test_the_run_says_so(tmp_path, tiny_model_dir, alpaca_file, monkeypatch, triton):
    monkeypatch.setattr("luthier.model.load.candidates", lambda d, w: (broken("no compiler", triton), PLAIN))
    _, notices = losses_of(tmp_path, tiny_model_dir, alpaca_file)
    (notice,) = [notice for notice in notices if "kernels" in notice.text]
    assert notice.severity == "warning" and "Failed to find C compiler" in notice.text
    assert notice.change == "training.kernels: false"
