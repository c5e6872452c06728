"""Unpacked weights are those of bitsandbytes, bit for bit."""

import bitsandbytes.functional
import pytest
import torch

from luthier.model.unpacking import unpack_rightly
from tests.model.kernels.support import ON_GPU, normal
from tests.model.kernels.support import pytestmark as marks

pytestmark = marks()
unpack_rightly()
nf4 = pytest.importorskip("luthier.model.kernels.nf4")


def quantized(rows, columns, dtype, *, double, size=1.0, **options):
    weights = (normal(rows, columns) * size).to(dtype)
    return bitsandbytes.functional.quantize_4bit(weights, quant_type="nf4", compress_statistics=double, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (3, 40), (130, 96), (257, 64)], ids=str)
def test_the_values_are_exactly_those_of_bitsandbytes(dtype, double, rows, columns):
    packed, state = quantized(rows, columns, dtype, double=double)
    out = torch.full((rows, columns), torch.nan, dtype=dtype, device=packed.device)
    assert nf4.fits(state, out)
    nf4.unpack(packed, state, out)
    wanted = bitsandbytes.functional.dequantize_4bit(packed, state)
    if dtype is torch.bfloat16 and not ON_GPU:  # the interpreter cuts off where a GPU rounds
        assert ((out.float() - wanted.float()).abs() <= wanted.float().abs() * 2**-7).all()
    else:
        assert torch.equal(out, wanted)


@pytest.mark.parametrize("size", [1e30, 1e-30, 0.0], ids=str)
def test_huge_and_tiny_weights(size):
    packed, state = quantized(20, 64, torch.float32, double=False, size=size)
    out = torch.empty(20, 64, device=packed.device)
    nf4.unpack(packed, state, out)
    assert torch.equal(out, bitsandbytes.functional.dequantize_4bit(packed, state))


def test_it_writes_where_it_is_told_and_nowhere_else():
    packed, state = quantized(8, 64, torch.float32, double=True, blocksize=128)
    room = torch.full((24, 64), 7.0, device=packed.device)
    nf4.unpack(packed, state, room[8:16])
    assert torch.equal(room[8:16], bitsandbytes.functional.dequantize_4bit(packed, state))
    assert (room[:8] == 7).all() and (room[16:] == 7).all()


def test_what_it_does_not_cover():
    _, state = quantized(8, 64, torch.float32, double=False)
    _, other = bitsandbytes.functional.quantize_4bit(normal(8, 64).float(), quant_type="fp4")
    out = torch.empty(8, 64)
    assert nf4.fits(state, out)
    assert not nf4.fits(None, out)
    assert not nf4.fits(other, out)
    assert not nf4.fits(state, out.bfloat16())
    assert not nf4.fits(state, out.T)


def test_nothing():
    _, state = quantized(8, 64, torch.float32, double=False)
    nf4.unpack(torch.empty(0, 1, dtype=torch.uint8), state, torch.empty(0, 64))
