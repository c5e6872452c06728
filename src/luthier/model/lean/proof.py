"""The lean path beside the model's own layers, on a few tokens, before a run relies on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luthier.errors import ModelError, Problem
from luthier.model.forward import own_token_losses
from luthier.model.lean.decoder import LeanDecoder
from luthier.model.lean.fit import STACKS
from luthier.model.lean.fp8 import unrounded
from luthier.model.lean.linears import Member
from luthier.model.lean.parts import Parts, as_written
from luthier.model.lean.writer import LeanWriter

_ROUNDING = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}
"""Largest relative difference of one gradient that rounding explains, of few tokens in a small layer. A lost factor,
sign or term is above it."""
_ROUNDING_OF_8_BITS = 0.6
"""Where products are of 8-bit floats, a last bit decides which way their operands are rounded, in each layer anew: 0.36
was seen in 16 layers of random weights on an H200. A lost factor of 2 or term leaves 1, a lost sign 2."""

_ROUNDING_OF_LOGITS = {torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.05}
"""Of logits: 0.0015 and 0.012 were seen of 16 layers in the 16-bit formats."""
_ROUNDING_OF_8_BITS_IN_LOGITS = 0.25
"""0.14 was seen of 16 layers of random weights."""

_ROUNDING_OF_ADAPTERS = 0.25
"""Of an adapter's share in one product. A lost or doubled one is off by 1."""

_NUMBERS = 3000
_TOKENS = 16
_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class _Probe:
    """Two packed documents, and four trained tokens; a `luthier.model.forward.Batch`."""

    inputs: dict[str, Any]
    positions_N: Tensor
    targets_N: Tensor

    def model_inputs(self) -> dict[str, Any]:
        return self.inputs


def prove_lean(model: nn.Module, lean: LeanDecoder, dtype: torch.dtype) -> None:
    """Require that `lean` gives the loss and the gradients of `model`'s own layers, up to rounding.

    The adapter is filled with random numbers for the moment: as it starts, B = 0 would hide half of its maths. Its
    values and torch's random generator are as before afterwards.

    Raises:
        ModelError: E-MODEL-014 when it does not.
    """
    probe = probe_of(next(model.parameters()).device)
    with torch.random.fork_rng([]), _shaken(lean.parameters()):
        expected, wanted = _gradients(model, own_token_losses(model, probe).sum())
        for _ in range(1 if lean.graphs is None else 3):  # launched, recorded, replayed
            found, got = _gradients(model, lean.summed_loss(probe.inputs, probe.positions_N, probe.targets_N))
    off = abs(found - expected) / max(abs(expected), 1e-6)
    if got.keys() == wanted.keys():
        parts = [(got[name] - wanted[name]).norm() / size for name, size in _sizes(wanted).items()]
        off = float(torch.stack([torch.tensor(off, device=parts[0].device), *parts]).max())  # nan wins, unlike in max()
    rounding = _ROUNDING_OF_8_BITS if lean.parts.in_8_bits else _ROUNDING.get(dtype, 1e-3)
    if got.keys() != wanted.keys() or not off <= rounding:
        found_text = f"loss or gradients differ by {off:.2g} from those of the model's own layers"
        raise ModelError(Problem("E-MODEL-014", found_text, "write lean_path: false", "training.lean_path"))


def writes_the_same(writer: LeanWriter, causal_lm: Any) -> bool:
    """Whether `writer` gives the logits of the model's own layers, up to rounding, for two rows of unlike length.

    Rounding to 8 bits explains much of them, and would hide an adapter or a scale. So products are compared one by one,
    and the logits once more with products that do not round.

    Args:
        writer: Of this model, refreshed.
        causal_lm: In evaluation mode, with an attention that takes padding; without peft's wrapper.
    """
    parts = writer.parts
    rounding = _ROUNDING_OF_LOGITS.get(parts.build.dtype, 1e-3)
    if not _multiplies_the_same(parts, causal_lm):
        return False
    if parts.in_8_bits:
        with unrounded():  # nothing is recorded: a recording would hold whole weights
            if not _off_in_logits(LeanWriter(parts, writer.refresh), causal_lm) <= rounding:
                return False
        rounding = _ROUNDING_OF_8_BITS_IN_LOGITS
    return _off_in_logits(writer, causal_lm) <= rounding


def _off_in_logits(writer: LeanWriter, causal_lm: Any) -> float:
    """How far the last logits are from the model's own, as a share of those."""
    device = writer.parts.norm_D.device
    ids_BT = torch.tensor([[0, 0, 0, 1, 2, 3, 4, 5, 6], [3, 1, 2, 4, 5, 3, 4, 6, 2]], device=device)
    real_BT = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1]], device=device)
    cache, until = writer.cache(*ids_BT.shape), 0
    for end in (6, 7, 8, 9):  # the prompts, then a step that is launched, one that is recorded, and one replayed
        found = writer.forward(ids_BT[:, until:end], cache, real_BT[:, :end]).logits
        until = end
    positions_BT = (real_BT.cumsum(1) - 1).clamp_min(0)
    wanted = causal_lm(input_ids=ids_BT, attention_mask=real_BT, position_ids=positions_BT, use_cache=False).logits
    return float((found[:, -1].float() - wanted[:, -1].float()).norm() / wanted[:, -1].float().norm())


def _multiplies_the_same(parts: Parts, causal_lm: Any) -> bool:
    """Whether each stack gives what its own layers give for the same numbers: no rounding is passed on."""
    generator, off = torch.Generator().manual_seed(0), []
    for layer, own in zip(parts.layers, causal_lm.get_decoder().layers, strict=True):
        for stack, names in zip(layer.stacks, STACKS, strict=True):
            x_TI = torch.randn(_TOKENS, stack.shape[1], generator=generator).to(parts.norm_D)
            with as_written(x_TI.device.type):
                y_TO, _ = stack.forward(x_TI)
            for member, name in zip(stack.members, names, strict=True):
                off.append(_off(member, x_TI, y_TO[:, member.outputs], own.get_submodule(name)(x_TI)))
    return bool(torch.stack(off).max() <= 1)  # nan wins, unlike in max()


def _off(member: Member, x_TI: Tensor, found_TO: Tensor, wanted_TO: Tensor) -> Tensor:
    """How far a product is off, where 1 is as far as rounding explains.

    That is the size of the error beside the whole product, or, where that is more, how much of the adapter's share lies
    in the error. A share that is itself no more than rounding is not looked at: 16 bits may lose it.
    """
    wide = torch.promote_types(x_TI.dtype, torch.float32)
    error_TO, size = found_TO.to(wide) - wanted_TO.to(wide), wanted_TO.to(wide).norm() + 1e-9
    off: Tensor = error_TO.norm() / (size * _ROUNDING_OF_LOGITS.get(x_TI.dtype, 1e-3))
    if member.lora_A is None or member.lora_B is None:
        return off
    share_TO = x_TI.to(wide) @ member.lora_A.to(wide).T @ member.lora_B.to(wide).T * member.scaling
    rounding = 4 * torch.finfo(x_TI.dtype).eps * size
    along = (error_TO * share_TO).sum().abs() / share_TO.square().sum() / _ROUNDING_OF_ADAPTERS
    return torch.maximum(off, along) if share_TO.norm() > rounding else off


def _sizes(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the error of each gradient is measured by: its norm, or the usual one of its kind in all layers if larger.

    What a layer's queries or keys get can be far less than in other layers, all but nothing where its attention looks
    at one token; in 16 bits such a gradient is mostly rounding.
    """
    kinds: dict[str, list[str]] = {}
    for name in gradients:
        kinds.setdefault(_LAYER.sub(".", name), []).append(name)
    sizes: dict[str, Tensor] = {}
    for names in kinds.values():
        norms = torch.stack([gradients[name].norm() for name in names])
        sizes |= dict(zip(names, torch.maximum(norms, norms.square().mean().sqrt()) + 1e-9, strict=True))
    return sizes


def prove_update(adamw: Callable[..., None], device: torch.device) -> None:
    """Require that a kernel for the optimizer moves some numbers as `torch.optim.AdamW` does, clipping included.

    Raises:
        ModelError: E-MODEL-014 when it does not.
    """
    generator = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(_NUMBERS, generator=generator).to(device) for _ in range(3))
    settings: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
    reference, moments = nn.Parameter(start.clone()), (torch.zeros_like(start), torch.zeros_like(start))
    optimizer = torch.optim.AdamW([reference], **settings)
    for step, gradient in enumerate(gradients, 1):
        gradient *= 100.0**step  # AdamW does not see how long gradients are, unless that changes from step to step
        norm = gradient.norm()
        adamw(start, gradient, *moments, norm, step=step, max_norm=1.0, **settings)
        reference.grad = gradient.clone()
        nn.utils.clip_grads_with_norm_([reference], 1.0, norm)
        optimizer.step()
    off = float((start - reference.detach()).norm() / reference.detach().norm())
    if not off <= _ROUNDING[torch.float32]:
        found = f"the update differs by {off:.2g} from that of torch"
        raise ModelError(Problem("E-MODEL-014", found, "write kernels: false", "training.kernels"))


def probe_of(device: torch.device) -> _Probe:
    """What proofs are tried on."""
    offsets = (0, 6, 11)
    inputs = {
        "input_ids": torch.tensor([[1, 2, 3, 4, 5, 6, 3, 1, 2, 4, 5]], device=device),
        "position_ids": torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4]], device=device),
        "document_offsets": offsets,
        "cu_seq_lens": torch.tensor(offsets, dtype=torch.int32, device=device),
    }
    return _Probe(inputs, torch.tensor([2, 3, 8, 9], device=device), torch.tensor([4, 5, 4, 5], device=device))


def _gradients(model: nn.Module, loss: Tensor) -> tuple[float, dict[str, Tensor]]:
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return loss.item(), gradients


@contextmanager
def _shaken(parameters: list[nn.Parameter]) -> Iterator[None]:
    before = [p.detach().clone() for p in parameters]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in parameters:
            p.add_(0.05 * torch.randn(p.shape, generator=generator).to(p.device))
    try:
        yield
    finally:
        with torch.no_grad():
            for p, values in zip(parameters, before, strict=True):
                p.copy_(values)
