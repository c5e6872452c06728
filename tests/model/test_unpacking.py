"""4-bit weights come out as their table and scales say, on every CPU and for rows of any length."""

import bitsandbytes
import pytest
import torch

from luthier.model.unpacking import unpack_rightly

unpack_rightly()


def reference(packed, state):
    """Table entries times scales, counted through the whole matrix."""
    scales = state.absmax
    if state.nested:
        scales = bitsandbytes.functional.dequantize_blockwise(scales, state.state2) + state.offset
    halves = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten()
    count = state.shape.numel()
    scale_of_each = scales.float().repeat_interleave(state.blocksize)[:count]
    return (state.code[halves[:count].long()] * scale_of_each).view(state.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
@pytest.mark.parametrize("shape", [(64, 128), (130, 96), (5, 96), (64, 32), (3, 70), (7, 33), (512, 160)], ids=str)
def test_values_are_those_of_the_table(shape, double, kind, dtype):
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=dtype)
    packed, state = bitsandbytes.functional.quantize_4bit(weight, quant_type=kind, compress_statistics=double)
    found, wanted = bitsandbytes.functional.dequantize_4bit(packed, state), reference(packed, state)
    assert found.shape == weight.shape and found.dtype is dtype
    torch.testing.assert_close(found, wanted.to(dtype), rtol=1e-6 if dtype is torch.float32 else 2**-7, atol=1e-8)


def test_layers_compute_with_them_with_and_without_a_gradient():
    torch.manual_seed(0)
    layer = bitsandbytes.nn.Linear4bit(96, 80, bias=False, quant_type="nf4", compute_dtype=torch.float32).to("cpu")
    x = torch.randn(4, 96, requires_grad=True)
    wanted = x.detach() @ reference(layer.weight.data, layer.weight.quant_state).T
    torch.testing.assert_close(layer(x).detach(), wanted)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), wanted)
