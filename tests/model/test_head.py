"""The chunked loss against a plain float64 reference."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from luthier.model import head
from luthier.model.head import chunked_nll, token_nll


class Reads(TorchDispatchMode):
    """The operations that hand a number of a tensor to Python, or whose result's shape rests on its numbers."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "index"):
            self.names.append(name)
        return operation(*args, **(kwargs or {}))


def reference(hidden, weight, targets):
    logits = hidden.double() @ weight.double().T
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


def drawn():
    """Hidden states, weights and targets of 45 tokens, and the first two once more in float64."""
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(size, 24, generator=generator, requires_grad=True) for size in (45, 300))
    targets = torch.randint(300, (45,), generator=generator)
    return hidden, weight, targets, *(x.detach().double().requires_grad_() for x in (hidden, weight))


@pytest.mark.parametrize("block_bytes", [1, 5 * 4 * 300, 2**30], ids=["single rows", "many blocks", "one block"])
@pytest.mark.parametrize("chunk_bytes", [1, 2**30], ids=["many chunks", "one chunk"])
def test_loss_and_gradients_equal_float64(monkeypatch, chunk_bytes, block_bytes):
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", chunk_bytes)
    monkeypatch.setitem(head.BLOCK_BYTES, "cpu", block_bytes)
    hidden, weight, targets, hidden64, weight64 = drawn()
    loss = chunked_nll(hidden, weight, targets)
    (loss / 45).backward()
    expected = reference(hidden64, weight64, targets)
    (expected / 45).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(hidden.grad.double(), hidden64.grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weight.grad.double(), weight64.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("block_bytes", [5 * 4 * 300, 2**30], ids=["many blocks", "one block"])
@pytest.mark.parametrize("chunk_bytes", [1, 2**30], ids=["many chunks", "one chunk"])
def test_each_loss_and_gradients_of_any_function_of_them_equal_float64(monkeypatch, chunk_bytes, block_bytes):
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", chunk_bytes)
    monkeypatch.setitem(head.BLOCK_BYTES, "cpu", block_bytes)
    hidden, weight, targets, hidden64, weight64 = drawn()
    expected = torch.nn.functional.cross_entropy(hidden64 @ weight64.T, targets, reduction="none")
    found = token_nll(hidden, weight, targets)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-6)
    for losses in (found, expected):
        ((losses[:20].sum() - losses[20:].sum()) / 50).sigmoid().log().backward()
    torch.testing.assert_close(hidden.grad.double(), hidden64.grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weight.grad.double(), weight64.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("chunk_bytes", [1, 2**30], ids=["many chunks", "one chunk"])
def test_hidden_states_without_a_target_change_nothing(monkeypatch, chunk_bytes):
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", chunk_bytes)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(70, 24), torch.randn(300, 24), torch.randint(300, (30,))
    wanted = head.nll(hidden[:30], weight, targets, hidden=True, weight=True)
    loss, grad_hidden, grad_weight = head.nll(hidden, weight, targets, hidden=True, weight=True)
    torch.testing.assert_close(loss, wanted[0])
    torch.testing.assert_close(grad_hidden[:30], wanted[1])
    torch.testing.assert_close(grad_weight, wanted[2])
    assert (grad_hidden[30:] == 0).all()


@pytest.mark.parametrize(
    ("device", "vocabulary", "logit_bytes", "rows"),
    [("cuda", 128_256, 2, 2048), ("cuda", 128_256, 4, 1024), ("cpu", 128_256, 4, 64), ("cpu", 10**9, 4, 16)],
)
def test_a_chunk_is_made_of_whole_tiles_and_bounded(device, vocabulary, logit_bytes, rows):
    assert head.chunk_rows(device, vocabulary, logit_bytes) == rows


def test_the_loss_of_16_bit_hidden_states_is_summed_in_float32():
    """A bfloat16 sum of 4,096 losses would be off by percents; only the logits may carry bfloat16's rounding."""
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(4096, 32, generator=generator).bfloat16()
    weight = (torch.randn(64, 32, generator=generator) / 6).bfloat16()
    targets = torch.randint(64, (4096,), generator=generator)
    expected = reference(hidden, weight, targets)
    assert chunked_nll(hidden, weight, targets).item() == pytest.approx(expected.item(), rel=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_all_but_impossible_costs_what_it_does_in_float64(dtype):
    hidden = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=dtype)
    weight = torch.tensor([[200.0, 0.0], [0.0, 1.0], [-60.0, 1.0]], dtype=dtype)
    targets = torch.tensor([1, 2])  # probabilities of e^-200 and e^-260: float32 has neither
    assert chunked_nll(hidden, weight, targets).item() == pytest.approx(460.0, rel=1e-6)


def test_no_chunk_waits_for_the_device(monkeypatch):
    """A number that Python reads is one that it waits for."""
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", 1)
    hidden = torch.randn(64, 8, requires_grad=True)
    targets = torch.randint(0, 32, (64,))
    with Reads() as reads:
        chunked_nll(hidden, torch.randn(32, 8), targets).backward()
    assert reads.names == []


def test_a_certain_and_right_prediction_costs_nothing_and_guessing_costs_log_v():
    hidden = torch.tensor([[100.0, 0.0]])
    certain = chunked_nll(hidden, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([0]))
    guessing = chunked_nll(hidden, torch.zeros(8, 2), torch.tensor([3]))
    assert certain.item() == pytest.approx(0.0, abs=1e-6)
    assert guessing.item() == pytest.approx(torch.tensor(8.0).log().item())


def test_a_second_backward_pass_fails_instead_of_scaling_twice():
    hidden = torch.randn(3, 4, requires_grad=True)
    loss = chunked_nll(hidden, torch.randn(5, 4), torch.tensor([0, 1, 2]))
    loss.backward(retain_graph=True)
    with pytest.raises(ValueError):
        loss.backward()
