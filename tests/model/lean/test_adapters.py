"""Adapters' values and gradients by the kernel that copies many matrices: wherever the parameters are, and whoever
put them there. The kernel runs in Triton's interpreter, everything else is plain torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from luthier.data.collate import collate_packed
from luthier.model.forward import summed_loss
from luthier.model.lean.decoder import LeanDecoder
from luthier.model.lean.graphs import Graphs
from luthier.model.lean.pieces import PLAIN
from luthier.training.flat import FlatAdamW, one_buffer
from tests.model.kernels.support import pytestmark as marks
from tests.model.lean.test_decoder import EXACT, build, gradients, lean_loss, rows, worst
from tests.model.lean.test_graphs import PIECES, ByStarts

pytestmark = marks()
copies = pytest.importorskip("luthier.model.kernels.copies")
adamw = pytest.importorskip("luthier.model.kernels.adamw")
COPYING = replace(PLAIN, copies=copies.Copies)


class Watched(copies.Copies):
    """A table that must not be written while a pass is recorded."""

    recording = False

    def find(self, sources_RC):
        assert not Watched.recording
        super().find(sources_RC)


def watched(made):
    """A recorder whose recordings are such passes."""

    def record(work):
        made.append(work)

        def replay():
            Watched.recording = True
            try:
                return work()
            finally:
                Watched.recording = False

        return replay

    return record


def decoder_of(model, dtype=torch.float64, pieces=COPYING):
    return LeanDecoder(model.get_base_model(), dtype, pieces=pieces)


def optimizer_of(decoder):
    return FlatAdamW([{"params": decoder.parameters()}], kernel=adamw.adamw, lr=1e-2)


def stacks(decoder):
    return [stack for layer in decoder.layers for stack in layer.stacks if stack.adapted]


def reads_what_is_there(decoder):
    """Whether its stacks hold the parameters' values after a refresh, the place between members untouched."""
    decoder.refresh()
    for stack in stacks(decoder):
        down, up = torch.zeros_like(stack.down_RI), torch.zeros_like(stack.up_OR)
        for m in stack.adapted:
            down[m.ranks], up[m.outputs, m.ranks] = m.lora_A.detach(), m.lora_B.detach() * m.scaling
        torch.testing.assert_close(stack.down_RI, down, rtol=1e-2 if down.dtype is torch.bfloat16 else 0, atol=0)
        torch.testing.assert_close(stack.up_OR, up, rtol=1e-2 if down.dtype is torch.bfloat16 else 0, atol=0)
    return True


def change(decoder):
    with torch.no_grad():
        for number, p in enumerate(decoder.parameters()):
            p.add_(0.1 + number)


OPTIONS = {
    "all": {},
    "one": {"targets": ["k_proj"]},
    "ranks": {"rank_pattern": {"k_proj": 2, "v_proj": 7, "up_proj": 16}, "use_rslora": True},
    "some": {"targets": ["q_proj", "v_proj", "up_proj", "down_proj"], "alpha_pattern": {"v_proj": 3}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("most", [192, 8], ids=["", "members apart"])
def test_values_and_every_gradient_are_those_of_the_models_own_layers(monkeypatch, options, most):
    monkeypatch.setattr("luthier.model.lean.gradients.MOST_RANKS", most)
    model, batch = build(**options), collate_packed(rows(2))
    wanted = gradients(model, summed_loss(model, batch))
    decoder = decoder_of(model)
    assert reads_what_is_there(decoder)
    for stack, room in zip(stacks(decoder), [r for r in decoder.gradients.rooms if r.ups], strict=True):
        assert len(room.ups) == (1 if stack.rank <= most else len(stack.adapted))
    for _ in range(2):
        assert worst(gradients(model, lean_loss(decoder, batch)), wanted) < EXACT


def test_gradients_of_parameters_in_float32_are_views_of_one_buffer_and_new_at_each_pass():
    model = build(dtype=torch.bfloat16)
    for p in decoder_of(model, torch.bfloat16).parameters():
        p.data = p.data.float()
    decoder, plain = (decoder_of(model, torch.bfloat16, pieces) for pieces in (COPYING, PLAIN))
    batch, before = collate_packed(rows(2)), None
    for _ in range(2):
        wanted = gradients(model, lean_loss(plain, batch))
        model.zero_grad()
        lean_loss(decoder, batch).backward()
        found = [p.grad for p in decoder.parameters()]
        assert one_buffer(found) is not None and {g.dtype for g in found} == {torch.float32}
        assert before is None or one_buffer(found).data_ptr() != one_buffer(before).data_ptr()
        named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert worst(named, wanted) < 0.1  # the interpreter cuts bfloat16 off
        before = found


def test_whoever_puts_parameters_elsewhere_is_noticed():
    decoder = decoder_of(build(dtype=torch.float32), torch.float32)
    batch = collate_packed(rows(2))
    assert reads_what_is_there(decoder)
    change(decoder)
    assert reads_what_is_there(decoder)
    optimizer = optimizer_of(decoder)
    places = [p.data_ptr() for p in decoder.parameters()]
    for _ in range(2):
        lean_loss(decoder, batch).backward()
        assert optimizer.clip_and_step(torch.tensor(1.0), 1.0)
        optimizer.zero_grad()
        assert reads_what_is_there(decoder)
    assert places != [p.data_ptr() for p in decoder.parameters()]
    optimizer.load_state_dict(optimizer.state_dict())  # a resume: the moments are others, the weights move again
    lean_loss(decoder, batch).backward()
    assert optimizer.clip_and_step(torch.tensor(1.0), 1.0)
    assert reads_what_is_there(decoder)
    for p in decoder.parameters():
        p.data = p.data.clone()
    change(decoder)
    assert reads_what_is_there(decoder)


def test_parameters_that_the_kernel_does_not_read_are_copied_by_torch():
    model = build()
    decoder = decoder_of(model)
    first, *_ = decoder.parameters()
    for move in (lambda x: x.T.contiguous().T, torch.Tensor.float, torch.Tensor.double):
        first.data = move(first.data)
        change(decoder)
        assert reads_what_is_there(decoder)
    first.data = first.data.float()
    found = gradients(model, lean_loss(decoder_of(model), collate_packed(rows(2))))
    assert {g.dtype for g in found.values()} == {torch.float64, torch.float32}


@pytest.mark.parametrize("way", ["there and back", "changed between", "an optimizer"])
def test_a_recorded_pass_reads_the_parameters_where_they_are(way):
    model = build(dtype=torch.float32)
    plain, recorded = (decoder_of(model, torch.float32, p) for p in (PIECES, replace(PIECES, copies=Watched)))
    for layer in recorded.layers:
        layer.attention = ByStarts(layer.attention)
    made = []
    recorded.graphs = Graphs(recorded, watched(made))
    batch = collate_packed(rows(2))
    optimizer = optimizer_of(recorded)

    def same():
        assert lean_loss(recorded, batch).item() == pytest.approx(lean_loss(plain, batch).item(), rel=1e-6)

    def look():  # a pass that is not recorded
        recorded.token_losses(batch.model_inputs(), batch.positions_N, batch.targets_N)

    for _ in range(3):
        same()
        if way == "an optimizer":
            lean_loss(recorded, batch).backward()
            optimizer.clip_and_step(torch.tensor(1.0), 1.0)
            optimizer.zero_grad()
        elif way == "changed between":
            change(recorded)
            look()
        else:
            homes = [p.data for p in recorded.parameters()]
            for p in recorded.parameters():
                p.data = 3 * p.data
            look()
            for p, home in zip(recorded.parameters(), homes, strict=True):
                p.data = home
    same()
    assert len(made) == (2 if way == "an optimizer" else 1)
