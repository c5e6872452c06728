"""Rows to 8-bit floats: exactly the numbers of plain torch; on a GPU the tensor cores' products too."""

import pytest
import torch

from luthier.model.lean.fp8 import dequantize, plain_product, product
from luthier.model.lean.fp8 import quantize_rows as plain
from tests.model.kernels.support import DEVICE, ON_GPU, close, dtypes, normal
from tests.model.kernels.support import pytestmark as marks

NEW_ENOUGH = not ON_GPU or torch.cuda.get_device_capability() >= (8, 9)
pytestmark = [*marks(), pytest.mark.skipif(not NEW_ENOUGH, reason="needs compute capability 8.9")]
fp8 = pytest.importorskip("luthier.model.kernels.fp8")


def same(x, factor=None):
    found, wanted = fp8.quantize_rows(x, factor), plain(x, factor)
    assert torch.equal(found[1], wanted[1])
    assert found[0].dtype is wanted[0].dtype
    assert torch.equal(found[0].float(), wanted[0].float())


@dtypes
@pytest.mark.parametrize("shape", [(7, 48), (1, 1), (3, 100), (0, 16), (2, 5000)], ids=str)
@pytest.mark.parametrize("with_factor", [False, True], ids=["as they are", "times powers of two"])
def test_the_numbers_are_exactly_those_of_plain_torch(dtype, shape, with_factor):
    # the kernel computes in float32: float64 numbers are cut to it first
    x = (normal(*shape) * torch.exp(3 * normal(*shape, seed=1))).float().to(dtype)
    exponents = torch.randint(-12, 3, (shape[1],), generator=torch.Generator().manual_seed(0))
    same(x, (2.0**exponents).to(DEVICE) if with_factor else None)


def test_halfway_cases_and_the_smallest_steps():
    steps = torch.arange(0, 2**15, 3, device=DEVICE).float() / 2**13  # of 1 / 16 of the smallest step, up to 4
    same(torch.cat([torch.full_like(steps[:1], 448.0), steps, -steps])[None])


def test_rows_of_a_wider_matrix_and_numbers_of_all_sizes():
    wide = normal(6, 100, dtype=torch.bfloat16)
    same(wide[:, 20:68])
    same(
        torch.tensor([[448.0, 1.0], [449.0, 1.0], [0.0, 0.0], [1e-42, 0.0], [2e38, 1.0], [1e-30, 1e-37]], device=DEVICE)
    )


def test_what_is_not_finite_stays_so():
    x = torch.tensor([[1.0, float("nan")], [float("-inf"), 1.0], [1.0, 2.0]], device=DEVICE)
    _, scale = fp8.quantize_rows(x)
    assert torch.isinf(scale[:2]).all() and torch.isfinite(scale[2]).all()


@pytest.mark.parametrize(("bits", "dtype"), [(0x7FFFFFFF, torch.float32), (0x7FFF, torch.bfloat16)], ids=str)
def test_the_nan_that_a_gpu_makes_stays_one(bits, dtype):
    x = torch.ones(2, 32, dtype=dtype)
    x.view(torch.int32 if dtype is torch.float32 else torch.int16)[0, 3] = bits
    x8, scale = fp8.quantize_rows(x.to(DEVICE))
    assert scale[:, 0].tolist() == [float("inf"), 2.0**-8]
    assert not torch.isfinite(dequantize(x8, scale, torch.float32)[0]).any()
    if ON_GPU:  # the interpreter's conversion to 8 bits knows no nan
        assert x8[0, 3].float().isnan()


@pytest.mark.skipif(not ON_GPU, reason="tensor cores")
@pytest.mark.parametrize("fast", [False, True], ids=["float32 sums", "fast sums"])
@pytest.mark.parametrize("tokens", [1, 17, 1000], ids=str)
def test_products_are_those_of_the_rounded_numbers(tokens, fast):
    x8, scale = fp8.quantize_rows(normal(tokens, 2048, dtype=torch.bfloat16))
    w8, scale_w = fp8.quantize_rows(normal(512, 2048, dtype=torch.bfloat16, seed=1))
    found = product(x8, scale, w8, scale_w[:, 0].contiguous(), torch.bfloat16, fast=fast)
    wanted = plain_product(x8, scale, w8, scale_w[:, 0], torch.float64)
    close(found, wanted, 2**-8 if not fast else 2**-7)
    assert dequantize(x8, scale, torch.float64).shape == (tokens, 2048)
