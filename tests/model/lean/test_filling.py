"""In 16 bits on a CPU passes come in few sizes, and what fills them up changes no number."""

import pytest
import torch

from luthier.data.collate import collate_packed
from luthier.model.head import nll
from luthier.model.lean import decoder as lean
from luthier.model.lean.decoder import LeanDecoder
from luthier.model.lean.filling import PassInputs, fills_up, in_few_sizes
from tests.model.lean.test_decoder import build, gradients, lean_loss, rows, worst


def test_only_16_bits_on_a_cpu_are_filled_up():
    assert fills_up(torch.device("cpu"), torch.bfloat16)
    assert not fills_up(torch.device("cpu"), torch.float32) and not fills_up(torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize("share", [False, True], ids=["apart", "shared"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral"])
def test_loss_and_gradients_are_the_same_in_float64(monkeypatch, kind, share):
    model = build(kind)
    batch = collate_packed(rows(9), share=share and kind != "mistral")
    wanted = gradients(model, lean_loss(LeanDecoder(model.get_base_model(), torch.float64), batch))
    monkeypatch.setattr(lean, "fills_up", lambda *_: True)
    filled = LeanDecoder(model.get_base_model(), torch.float64)
    found = gradients(model, lean_loss(filled, batch))
    assert worst(found, wanted) < 1e-12
    with torch.no_grad():
        alone = filled.summed_loss(batch.model_inputs(), batch.positions_N, batch.targets_N)
    torch.testing.assert_close(alone, lean_loss(filled, batch).detach())


def test_a_pass_of_such_a_size_is_left_as_it_is():
    batch = collate_packed(rows(9))
    once = in_few_sizes(PassInputs(batch.model_inputs(), batch.positions_N, batch.targets_N))
    again = in_few_sizes(once._replace(inputs=once.inputs | {"cu_seq_lens": None}))
    assert again.inputs["document_offsets"] == once.inputs["document_offsets"]
    assert len(again.positions_N) == len(once.positions_N)


def test_many_batches_come_in_few_sizes(monkeypatch):
    sizes = set()
    monkeypatch.setattr(lean, "nll", lambda x, *args, **options: sizes.add(len(x)) or nll(x, *args, **options))
    model = build(dtype=torch.bfloat16)
    decoder = LeanDecoder(model.get_base_model(), torch.bfloat16)
    tokens, asked = set(), set()
    for seed in range(30):
        batch = collate_packed(rows(8 + seed % 9, seed))
        inputs, positions, _ = in_few_sizes(PassInputs(batch.model_inputs(), batch.positions_N, batch.targets_N))
        tokens.add(inputs["input_ids"].shape[1])
        asked.add(batch.input_ids_BT.shape[1])
        assert inputs["document_offsets"][-1] == inputs["input_ids"].shape[1] < 1.2 * batch.input_ids_BT.shape[1] + 64
        assert len(positions) >= len(batch.positions_N)
        lean_loss(decoder, batch)
    assert len(asked) > 20 and len(tokens) <= 4 and len(sizes) <= 4
