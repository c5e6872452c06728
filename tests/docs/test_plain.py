"""The plain torch of the concept pages does what Luthier and its libraries do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from luthier.generate.choosing import Sampling
from luthier.generate.writing import Answer, write
from luthier.model.attention import document_attention
from luthier.model.load import load_model
from luthier.training.optimizer import build_optimizer
from luthier.training.step import backward, norm_of_gradients, update
from tests.rows import MemoryRows, micro_batches, plan_for

ROOT = Path(__file__).parents[2]
BASE = ROOT / "src" / "luthier" / "quickstart" / "base"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def plain(page: str, number: int = 0, **names: Any) -> dict[str, Any]:
    """The names that a page's block leaves, run with these ones given."""
    code = BLOCK.findall((ROOT / "guide" / "concepts" / f"{page}.md").read_text("utf-8"))[number]
    space = {"torch": torch, **names}
    exec(code, space)
    return space


@pytest.fixture(params=["true", "false"], ids=["packed", "padded"])
def trained(tiny_model_dir, request):
    """A plan, its rows, and a tiny model with an adapter that is no longer at its start."""
    rows = MemoryRows(8)
    keys = {"lean_path": "false", "packing": request.param, "max_tokens_per_micro_batch": 80, "weight_decay": 0.1}
    plan = plan_for(tiny_model_dir, rows, val_set_size=0, **keys)
    torch.manual_seed(0)
    model = load_model(plan, AutoConfig.from_pretrained(tiny_model_dir))
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.05 * torch.randn(parameter.shape)
    return plan, rows, model, parameters


def test_the_loss_of_a_step(trained, capsys):
    plan, rows, model, parameters = trained
    batches = micro_batches(rows, range(8), plan, 3)
    assert len(batches) > 2
    sums, counted = backward(model, batches, plan)
    count = counted.trained_tokens
    ours = [p.grad.clone() for p in parameters]
    model.zero_grad()
    passes = [(batch.model_inputs(), batch.positions_N, batch.targets_N) for batch in batches]
    plain("loss", model=model, passes=passes, trained_tokens=count)
    assert float(capsys.readouterr().out) == pytest.approx(sums[0].item() / count, abs=1e-5)
    for parameter, gradient in zip(parameters, ours, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("limit", [0.1, 1000.0], ids=["shortened", "as long as it is"])
def test_an_update(trained, limit):
    plan, _, model, parameters = trained
    plan = SimpleNamespace(config=plan.config.with_values({"training.max_grad_norm": limit}), sharded=False)
    optimizer, training = build_optimizer(model, plan), plan.config.training
    weights = [p.detach().double() for p in parameters]
    means, squares = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for step in range(1, 5):
        gradients = [torch.randn(p.shape) for p in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        update(parameters, optimizer, plan, 1e-2, norm_of_gradients(parameters, plan))
        gradients = [gradient.double() for gradient in gradients]
        plain(
            "gradients", weights=weights, gradients=gradients, means=means, squares=squares, step=step, rate=1e-2,
            max_grad_norm=limit, beta1=training.adam_beta1, beta2=training.adam_beta2,
            epsilon=training.adam_epsilon, weight_decay=training.weight_decay,
        )  # fmt: skip
    for parameter, weight in zip(parameters, weights, strict=True):
        torch.testing.assert_close(parameter.detach().double(), weight, atol=1e-5, rtol=1e-5)


def test_an_adapted_layer(trained):
    plan, _, model, _ = trained
    layer = model.get_base_model().model.layers[1].mlp.up_proj
    x = torch.randn(3, layer.in_features)
    lora = plain("lora")["lora"]
    a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
    section = plan.config.lora
    y = lora(x, layer.base_layer.weight, a, b, section.lora_alpha, section.r)
    torch.testing.assert_close(layer(x), y)
    assert not torch.allclose(y, x @ layer.base_layer.weight.T, atol=1e-3)


def test_a_block_in_4_bits():
    nf4 = plain("qlora")["nf4"]
    weights = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)) * 0.02
    stored, state = quantize_4bit(weights.contiguous(), blocksize=64, quant_type="nf4")
    torch.testing.assert_close(torch.stack([nf4(block) for block in weights]), dequantize_4bit(stored, state))
    assert not torch.allclose(dequantize_4bit(stored, state), weights, atol=1e-4)


def test_attention_with_a_causal_mask():
    attention = plain("text-to-probability")["attention"]
    q, k, v = torch.randn(3, 2, 7, 16, generator=torch.Generator().manual_seed(2)).unbind()
    ours, _ = document_attention(torch.nn.Module(), q[None], k[None], v[None], None, document_offsets=(0, 7))
    torch.testing.assert_close(attention(q, k, v), ours[0].transpose(0, 1))


def test_the_loop_that_writes_an_answer():
    loop = plain("text-to-probability", 1)["write"]
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    text = json.loads((ROOT / "guide/measured.json").read_text("utf-8"))["text"]["written"]
    ids = tokenizer(text.partition("a.count")[0], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    answer = Answer(ids, Sampling(24), lambda piece, tokens: None, tokenizer, [end])
    write(model, [answer], [end])
    with torch.no_grad():
        written = loop(model, ids, end)
    assert written == [*ids, *answer.ids, end]
    assert tokenizer.decode(written) == text
