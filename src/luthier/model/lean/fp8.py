r"""Frozen weights and what they are multiplied with in 8-bit floats (e4m3), scaled row by row.

    q(x)    = x8, s        x8 = round(x / s) to e4m3,  s = the power of two that brings |x|'s largest into (224, 448]
    forward   y  = (x8 s_x) (W8 s_W)^T                  s_x a token, s_W an output: the rows along which products add up
    backward  dx = (d8 s_d) W8,  d8 s_d = q(dy s_W)     the same W8: dx is the gradient of what forward computed

Scales lie outside of the sum of a product, so a sum over outputs (backward) cannot have W's scales, which belong to the
outputs. They are moved into dy instead. A second copy of W with scales of its own would be another matrix, rounded
another way, and no smaller: the tensor cores want both operands along the sum, so that W8 has to be transposed anyhow.

Scales are powers of two. Dividing by one rounds nothing, so a number's rounding error is that of e4m3 (1/16 of it at
most) whatever its row holds, and W8 s_W is a matrix of exact bfloat16 numbers. Gradients are e4m3 too, not e5m2: with a
scale for each token e4m3 reaches down to 1 / 229,376 of its largest number, and e5m2 would halve its precision to reach
further than that.

Rounding is taken for the identity in the backward pass (straight-through).

Source: Micikevicius et al. 2022 (the format); torchao's float8 training (scales by row, powers of two).
Not covered: the adapters, head and embedding, which stay as they are; weights of 4 bits.

Shape letters: T tokens, I inputs, O outputs, K what a product sums over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from luthier.errors import ModelError, Problem
from luthier.model.lean.fit import STACKS

GRID = torch.float8_e4m3fn
LEAST = 2.0**-100
"""Rows whose largest number is below it are scaled as if it were that: their scale stays a normal float32."""
MULTIPLE = 16
"""Sizes of matrices that `torch._scaled_mm` takes are multiples of it."""
KEY = "quantization.base_precision"
_CARRY, _EXPONENT, _EIGHT = 0x1FFFFF, 0x7F800000, 2.0**-8


def scale_of(most: Tensor) -> Tensor:
    """The smallest power of two by which `most` (float32, at least `LEAST`) can be divided to be at most 448.

    448 is 1.75 x 2^8: a mantissa above 1.75 carries into the exponent. Infinite where `most` is not finite; a GPU's own
    nan has all bits set, and would run over.
    """
    return most.view(torch.int32).clamp_max(_EXPONENT).add(_CARRY).bitwise_and(_EXPONENT).view(torch.float32) * _EIGHT


def quantize_rows(x_TK: Tensor, factor_K: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`x_TK` (times `factor_K`, column by column) in e4m3 (T x K), and the scale of each row (T x 1, float32).

    A row with a number that is not finite gets an infinite scale, so that nothing finite comes of it.
    """
    wide_TK = x_TK.to(torch.promote_types(x_TK.dtype, torch.float32))
    wide_TK = wide_TK if factor_K is None else wide_TK * factor_K
    scale_T1 = scale_of(wide_TK.abs().amax(-1, keepdim=True).float().clamp_min(LEAST))
    return (wide_TK / scale_T1).to(GRID), scale_T1


def dequantize(x8_TK: Tensor, scale_T1: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers that e4m3 and scales stand for, exactly, in bfloat16 or wider."""
    return x8_TK.to(dtype) * scale_T1.to(dtype)


def plain_product(x8_TK: Tensor, scale_T1: Tensor, w8_NK: Tensor, scale_N: Tensor, dtype: torch.dtype) -> Tensor:
    """The product x W^T (T x N) as an ordinary product of the same rounded numbers: the reference."""
    return functional.linear(dequantize(x8_TK, scale_T1, dtype), dequantize(w8_NK, scale_N[:, None], dtype))


def product(
    x8_TK: Tensor, scale_T1: Tensor, w8_NK: Tensor, scale_N: Tensor, dtype: torch.dtype, *, fast: bool
) -> Tensor:
    """The product x W^T (T x N): by the tensor cores on CUDA, where both have to lie along K, and plainly elsewhere.

    `fast` lets Hopper add up in fewer bits than float32; torchao does so forward and not for gradients.
    """
    if not x8_TK.is_cuda:
        return plain_product(x8_TK, scale_T1, w8_NK, scale_N, dtype)
    y_TN: Tensor = torch._scaled_mm(
        x8_TK, w8_NK.T, scale_a=scale_T1, scale_b=scale_N[None], out_dtype=dtype, use_fast_accum=fast
    )
    return y_TN


class FP8Linear(nn.Module):
    """A frozen linear layer in 8 bits, as the model's own layers compute it: by `plain_product`, on every device.

    Attributes:
        rounds: Whether what is multiplied with weights is rounded to 8 bits, here and in `FP8StackedLinear`.
        weight: e4m3 (O x I); a parameter so that it is counted, never trained.
        scale_O: float32.
        bias: As it was.
    """

    rounds: ClassVar[bool] = True
    scale_O: Tensor

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.dtype = base.weight.dtype
        weight8_OI, scale_O1 = quantize_rows(base.weight.detach())
        self.weight = nn.Parameter(weight8_OI, requires_grad=False)
        self.register_buffer("scale_O", scale_O1[:, 0].contiguous())
        self.bias = base.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O), in the format that the weights had."""
        y: Tensor
        if self.rounds:
            y = _Plain.apply(x.to(self.dtype), self.weight, self.scale_O)  # type: ignore[no-untyped-call]
        else:
            y = functional.linear(x.to(self.dtype), dequantize(self.weight, self.scale_O[:, None], self.dtype))
        return y if self.bias is None else y + self.bias.to(self.dtype)


@contextmanager
def unrounded() -> Iterator[None]:
    """While the block runs, products take what they are given as it is: to compare all that is around them."""
    FP8Linear.rounds = False
    try:
        yield
    finally:
        FP8Linear.rounds = True


def to_fp8(causal_lm: Any) -> None:
    """Replace the linear layers of all decoder layers by `FP8Linear`, under their adapters where they have some.

    Args:
        causal_lm: A model that `luthier.model.lean.fit` found nothing against.

    Raises:
        ModelError: E-MODEL-015 for sizes that the tensor cores do not multiply.
    """
    for parent, name, linear in _linears(causal_lm):
        if any(size % MULTIPLE for size in linear.weight.shape):
            found = f"{name} is {' x '.join(map(str, linear.weight.shape))}, which are no multiples of {MULTIPLE}"
            raise ModelError(Problem("E-MODEL-015", found, "write base_precision: default", KEY))
        setattr(parent, name, FP8Linear(linear))


@torch.no_grad()
def round_as_fp8(causal_lm: Any) -> None:
    """Give the same layers the values that their 8-bit weights stand for; they stay ordinary layers."""
    for _, _, linear in _linears(causal_lm):
        linear.weight.copy_(dequantize(*quantize_rows(linear.weight), linear.weight.dtype))


def _linears(causal_lm: Any) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Each with the module that holds it, and its name there."""
    for layer in causal_lm.get_decoder().layers:
        for path in (path for paths in STACKS for path in paths):
            above, _, name = path.rpartition(".")
            parent, module = layer.get_submodule(above), layer.get_submodule(path)
            yield (module, "base_layer", module.base_layer) if hasattr(module, "base_layer") else (parent, name, module)


class _Plain(torch.autograd.Function):
    """What `FP8StackedLinear` computes forward and backward, for one layer and without kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight8_OI: Tensor, scale_O: Tensor) -> Tensor:
        ctx.save_for_backward(weight8_OI, scale_O)
        y_TO = plain_product(*quantize_rows(x.flatten(0, -2)), weight8_OI, scale_O, x.dtype)
        return y_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        weight8_OI, scale_O = ctx.saved_tensors
        grad = grad_outputs[0]
        ones_I = scale_O.new_ones(weight8_OI.shape[1])
        grad_TI = plain_product(*quantize_rows(grad.flatten(0, -2), scale_O), weight8_OI.T, ones_I, grad.dtype)
        return grad_TI.view(*grad.shape[:-1], -1), None, None
