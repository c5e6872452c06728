"""Rotation in place: of heads inside a larger buffer, forth and back."""

import pytest
import torch

from luthier.model.lean import pieces
from tests.model.kernels.support import TOLERANCES, close, dtypes, normal
from tests.model.kernels.support import pytestmark as marks

pytestmark = marks()
rope = pytest.importorskip("luthier.model.kernels.rope")


def angles(tokens, size, dtype):
    half = normal(tokens, size // 2, seed=9)
    return tuple(torch.cat([f(half), f(half)], dim=-1).to(dtype) for f in (torch.cos, torch.sin))


@dtypes
@pytest.mark.parametrize(("tokens", "heads", "size"), [(1, 1, 2), (7, 3, 24), (5, 40, 64), (3, 5, 128)], ids=str)
def test_it_equals_float64(dtype, tokens, heads, size):
    x = normal(tokens, heads, size, dtype=dtype)
    cos, sin = angles(tokens, size, torch.promote_types(dtype, torch.float32))
    for inverse in (False, True):
        wanted = pieces.rotate(x.double(), cos.double(), sin.double(), inverse=inverse)
        found = rope.rotate(x.clone(), cos, sin, inverse=inverse)
        assert found.dtype is dtype
        close(found, wanted, TOLERANCES[dtype])


@dtypes
def test_it_turns_queries_and_keys_inside_the_stack_and_leaves_values_alone(dtype):
    qkv = normal(6, 10 * 16, dtype=dtype)
    before = qkv.clone()
    cos, sin = angles(6, 16, torch.float64 if dtype is torch.float64 else torch.float32)
    turned = qkv.view(6, 10, 16)[:, :8]
    assert rope.rotate(turned, cos, sin).data_ptr() == qkv.data_ptr()
    wanted = pieces.rotate(before.view(6, 10, 16)[:, :8].double(), cos.double(), sin.double())
    close(qkv.view(6, 10, 16)[:, :8], wanted, TOLERANCES[dtype])
    assert torch.equal(qkv[:, 8 * 16 :], before[:, 8 * 16 :])
    rope.rotate(turned, cos, sin, inverse=True)
    close(qkv, before, 2 * TOLERANCES[dtype])


def test_huge_numbers_and_nothing():
    cos, sin = angles(4, 8, torch.float32)
    x = normal(4, 3, 8, dtype=torch.float32) * 1e37
    close(rope.rotate(x.clone(), cos, sin), pieces.rotate(x.double(), cos.double(), sin.double()), 2e-6)
    assert rope.rotate(normal(0, 3, 8), *angles(0, 8, torch.float64)).shape == (0, 3, 8)
