r"""The whole model on the lean path: one node in autograd's graph, with every layer's backward pass written out.

    forward     tokens -> embedding -> layers -> norm -> head -> loss      keeps each layer's input and a little more
    backward    the same way back, layer by layer; only the adapters get gradients

The parameters stay in the model of transformers and peft, so saving, sampling and the optimizer know nothing of this.
What is computed is the same function; `luthier.model.lean.proof` compares both before a run relies on it.

Shape letters: T tokens, N trained tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from luthier.model.head import nll
from luthier.model.lean.layer import Kept, Layout, LeanLayer
from luthier.model.lean.pieces import PLAIN, Pieces


@dataclass
class Tape:
    """What the backward pass needs. `inputs[i]` is the input of layer i; `kept[i]` is None where it is checkpointed."""

    layout: Layout
    inputs: list[Tensor] = field(default_factory=list)
    kept: list[Kept | None] = field(default_factory=list)
    grad_normed_ND: Tensor | None = None


class LeanDecoder:
    """A causal language model, as a function of a micro-batch to a loss.

    `pieces` says what it is put together from, and `refused` why kernels are not, where they were tried in vain.

    Args:
        causal_lm: A model that `luthier.model.lean.fit` found nothing against; peft's layers in it, adapters active.
        dtype: Compute format.
        keep_unpacked: Hold the weights of 4-bit layers in the compute format, instead of unpacking them at each use;
            those of 8-bit floats also transposed.
        checkpointed_layers: How many layers keep only their input and are computed again in the backward pass; may be
            changed between passes.
        pieces: Kernels, or plain torch; see `luthier.model.kernels.choose`.
    """

    def __init__(
        self,
        causal_lm: Any,
        dtype: torch.dtype,
        *,
        keep_unpacked: bool = True,
        checkpointed_layers: int = 0,
        pieces: Pieces = PLAIN,
    ) -> None:
        decoder = causal_lm.get_decoder()
        options: dict[str, Any] = {"keep": keep_unpacked, "buffers": {}, "pieces": pieces}
        self.layers = [LeanLayer(layer, dtype, **options) for layer in decoder.layers]
        self.pieces, self.refused = pieces, ""
        self._dtype, self.checkpointed_layers = dtype, checkpointed_layers
        self._embedding, self._rotation = decoder.embed_tokens, decoder.rotary_emb
        self._norm, self._eps = decoder.norm.weight.detach().to(dtype), decoder.norm.variance_epsilon
        self._head = causal_lm.get_output_embeddings()

    def parameters(self) -> list[nn.Parameter]:
        """The trained matrices."""
        return [p for layer in self.layers for p in layer.parameters()]

    def unpack_at_each_use(self) -> None:
        """Forget weights that are kept unpacked or transposed: less memory, a little slower, the same values."""
        for layer in self.layers:
            for stack in layer.stacks:
                stack.forget_unpacked()

    def summed_loss(self, inputs: dict[str, Any], positions_N: Tensor, targets_N: Tensor) -> Tensor:
        """Sum of the negative log-likelihoods (nats, float32); see `luthier.model.forward.summed_loss`."""
        with torch.autocast(positions_N.device.type, enabled=False):
            for layer in self.layers:
                for stack in layer.stacks:
                    stack.refresh()
            batch = (inputs, positions_N, targets_N)
            if not torch.is_grad_enabled():  # inside of a Function it never is
                return self.forward(batch, train=False)[0]
            return _Lean.apply(self, batch, *self.parameters())  # type: ignore[no-any-return, no-untyped-call]

    def forward(self, batch: tuple[dict[str, Any], Tensor, Tensor], *, train: bool) -> tuple[Tensor, Tape | None]:
        """The loss, and what `backward` needs when it will be asked for."""
        inputs, positions_N, targets_N = batch
        packed = {key: value for key, value in inputs.items() if key not in ("input_ids", "position_ids")}
        x_TD = self._embedding(inputs["input_ids"])[0].to(self._dtype)
        wide = x_TD.to(torch.promote_types(self._dtype, torch.float32))  # the format of the angles follows it
        cos_BTS, sin_BTS = self._rotation(wide[None], position_ids=inputs["position_ids"])
        tape = Tape(Layout(cos_BTS[0], sin_BTS[0], packed, positions_N))
        for number, layer in enumerate(self.layers):
            tape.inputs.append(x_TD)
            x_TD, kept = layer.forward(x_TD, tape.layout, last=number == len(self.layers) - 1)
            tape.kept.append(kept if number >= self.checkpointed_layers else None)
            if not train:
                tape = Tape(tape.layout)
        tape.inputs.append(x_TD)
        normed_ND = self.pieces.rms_norm(x_TD, self._norm, self._eps)
        loss, tape.grad_normed_ND, _ = nll(
            normed_ND, self._head.weight.detach(), targets_N, hidden=train, in_place=self.pieces.cross_entropy
        )
        return loss, tape if train else None

    def backward(self, tape: Tape, scale: Tensor) -> list[Tensor]:
        """Gradients of `parameters()`, times `scale`. The tape is used up."""
        assert tape.grad_normed_ND is not None
        norm_backward = self.pieces.rms_norm_backward
        grad_TD: Tensor | None = norm_backward(tape.grad_normed_ND, tape.inputs.pop(), self._norm, self._eps)
        gradients: list[list[Tensor]] = []
        for number in reversed(range(len(self.layers))):
            layer, x_TD, kept = self.layers[number], tape.inputs.pop(), tape.kept.pop()
            last = number == len(self.layers) - 1
            if kept is None:
                _, kept = layer.forward(x_TD, tape.layout, last=last)
            assert grad_TD is not None
            grad_TD, own = layer.backward(grad_TD, x_TD, kept, tape.layout, first=number == 0, last=last)
            gradients.append(own)
        # scaled last, in the parameters' own format: in 16 bits the factor itself would be rounded
        return [gradient.mul_(scale) for own in reversed(gradients) for gradient in own]


class _Lean(torch.autograd.Function):
    """The decoder as one differentiable function of its adapters' matrices."""

    @staticmethod
    def forward(
        ctx: Any, decoder: LeanDecoder, batch: tuple[dict[str, Any], Tensor, Tensor], *parameters: nn.Parameter
    ) -> Tensor:
        loss, ctx.tape = decoder.forward(batch, train=True)
        ctx.decoder = decoder
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        tape, ctx.tape = ctx.tape, None  # a second backward pass must fail, not lie
        with torch.autocast(grad_outputs[0].device.type, enabled=False):
            return (None, None, *ctx.decoder.backward(tape, grad_outputs[0]))
