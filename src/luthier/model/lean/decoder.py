r"""The whole model on the lean path: one node in autograd's graph, with every layer's backward pass written out.

    forward     tokens -> embedding -> layers -> norm -> head -> loss      keeps each layer's input and a little more
    backward    the same way back, layer by layer; only the adapters get gradients

The parameters stay in the model of transformers and peft, so saving, sampling and the optimizer know nothing of this.
What is computed is the same function; `luthier.model.lean.proof` compares both before a run relies on it.

Shape letters: T tokens, N trained tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from luthier.model.head import nll
from luthier.model.lean.adapters import Adapters
from luthier.model.lean.filling import PassInputs, fills_up, in_few_sizes
from luthier.model.lean.gradients import Gradients
from luthier.model.lean.graphs import Graphs, Recorder, can_record
from luthier.model.lean.layer import Kept, Layout, Stream
from luthier.model.lean.linears import Build
from luthier.model.lean.parts import Parts, as_written
from luthier.model.lean.pieces import PLAIN, Pieces


@dataclass
class Tape:
    """What the backward pass needs. `inputs[i]` is the input of layer i; `kept[i]` is None where it is checkpointed."""

    layout: Layout
    inputs: list[Tensor] = field(default_factory=list)
    kept: list[Kept | None] = field(default_factory=list)
    grad_normed_ND: Tensor | None = None

    def add(self, x_TD: Tensor, kept: Kept, *, checkpointed: bool) -> None:
        """One more layer's input, and what else backward needs of it."""
        self.inputs.append(x_TD)
        self.kept.append(None if checkpointed else kept)


class LeanDecoder:
    """A causal language model, as a function of a micro-batch to a loss.

    `pieces` says what it is put together from, and `refused` why kernels are not, where they were tried in vain.

    Args:
        causal_lm: A model that `luthier.model.lean.fit` found nothing against; peft's layers in it, adapters active.
        dtype: Compute format.
        keep_unpacked: Hold the weights of 4-bit layers in the compute format, instead of unpacking them at each use;
            those of 8-bit floats also transposed.
        pieces: Kernels, or plain torch; see `luthier.model.kernels.choose`.
        recorder: Records passes for `luthier.model.lean.graphs`, where attention can be replayed; None: each pass is
            launched from Python.

    Attributes:
        checkpointed_layers: How many layers keep only their input and are computed again in the backward pass; may be
            changed between passes.
        adapters: Their values, as the layers read them.
        gradients: Where a backward pass leaves them.
        graphs: The recorded passes; None where passes are not recorded.
        parts: What it is made of.
        turn: Which pass the gradients there are of.
        loss_scale: How much larger gradients are on their way than where they are left; see `scale_loss`.
    """

    def __init__(
        self,
        causal_lm: Any,
        dtype: torch.dtype,
        *,
        keep_unpacked: bool = True,
        pieces: Pieces = PLAIN,
        recorder: Recorder | None = None,
    ) -> None:
        self.parts = Parts.of(causal_lm, Build(dtype, keep_unpacked, {}, pieces))
        self.layers = self.parts.layers
        can = can_record(self.parts.rotation) and all(layer.attention.reads_device for layer in self.layers)
        self.turn: object = None
        self._stacks = self.parts.stacks
        self._parameters = [p for stack in self._stacks for p in stack.parameters()]
        self.graphs = Graphs(self, recorder) if can and recorder is not None else None
        self.adapters, self.gradients = Adapters(self._stacks, pieces), Gradients(self._stacks, pieces)
        self.pieces, self.refused = pieces, ""
        self.checkpointed_layers, self.loss_scale = 0, 1.0
        self._fills_up = fills_up(self.parts.embedding.weight.device, dtype)

    def parameters(self) -> list[nn.Parameter]:
        """The trained matrices."""
        return self._parameters

    def unpack_at_each_use(self) -> None:
        """Forget weights that are kept unpacked or transposed: less memory, a little slower, the same values."""
        for stack in self._stacks:
            stack.forget_unpacked()

    def scale_loss(self, scale: float) -> None:
        """Compute gradients `scale` (a power of two) times as large, and divide them at the end, in float32.

        float16 has no numbers below 6e-8 (`luthier.training.scale`). Recorded passes have the factor in them.
        """
        if scale != self.loss_scale:
            self.loss_scale = scale
            if self.graphs is not None:
                self.graphs.forget()

    def unscaled(self, factor: Tensor) -> Tensor:
        """A factor on the gradients, with the scale taken off."""
        return factor if self.loss_scale == 1.0 else factor / self.loss_scale

    def summed_loss(self, inputs: dict[str, Any], positions_N: Tensor, targets_N: Tensor) -> Tensor:
        """Sum of the negative log-likelihoods (nats, float32); see `luthier.model.forward.summed_loss`."""
        if not torch.is_grad_enabled():  # inside of a Function it never is
            return self.token_losses(inputs, positions_N, targets_N).sum()
        with as_written(positions_N.device.type):
            batch = self._in_size(PassInputs(inputs, positions_N, targets_N))
            return _Lean.apply(self, batch, *self.parameters())  # type: ignore[no-any-return, no-untyped-call]

    def token_losses(self, inputs: dict[str, Any], positions_N: Tensor, targets_N: Tensor) -> Tensor:
        """The negative log-likelihood (N) of each trained token; see `luthier.model.forward.token_losses`.

        What each counts is known only in the backward pass, so these passes are not recorded.
        """
        with as_written(positions_N.device.type):
            batch = self._in_size(PassInputs(inputs, positions_N, targets_N))
            if not torch.is_grad_enabled():
                self.refresh()
                return self.forward(batch, train=False)[0]
            return _LeanTokens.apply(self, batch, *self.parameters())  # type: ignore[no-any-return, no-untyped-call]

    def _in_size(self, batch: PassInputs) -> PassInputs:
        """The batch, filled up where this device wants few sizes."""
        return in_few_sizes(batch) if self._fills_up else batch

    def refresh(self) -> None:
        """Read the adapters' values: they may have changed or moved since the last pass."""
        self.adapters.find()
        self.adapters.refresh()

    def whole_pass(self, batch: PassInputs) -> Tensor:
        """The loss; the gradients are left in `gradients`, not scaled yet. The adapters' places are found already."""
        self.adapters.refresh()
        loss_N, tape = self.forward(batch, train=True)
        assert tape is not None
        self.backward(tape)
        return loss_N.sum()

    def forward(self, batch: PassInputs, *, train: bool) -> tuple[Tensor, Tape | None]:
        """The loss of each trained token, and what `backward` needs when it will be asked for."""
        inputs, positions_N, targets_N = batch
        packed = {key: value for key, value in inputs.items() if key not in ("input_ids", "position_ids")}
        if "longest" not in packed:
            packed["longest"] = max(end - start for start, end in pairwise(packed["document_offsets"]))
        stream, cos_TS, sin_TS = self.parts.begin(inputs["input_ids"], inputs["position_ids"])
        tape = Tape(Layout(cos_TS, sin_TS, packed, positions_N))
        for number, layer in enumerate(self.layers):
            last, checkpointed = number == len(self.layers) - 1, number < self.checkpointed_layers
            tape.add(*layer.forward(stream, tape.layout, last=last), checkpointed=checkpointed)
            if not train:
                tape = Tape(tape.layout)
        normed_ND = self.parts.end(stream)
        tape.inputs.append(stream.x_TD)
        loss_N, tape.grad_normed_ND, _ = nll(
            normed_ND, self.parts.head.weight.detach(), targets_N,
            hidden=train, hidden_scale=self.loss_scale, in_place=self.pieces.cross_entropy,
        )  # fmt: skip
        return loss_N, tape if train else None

    def backward(self, tape: Tape) -> None:
        """Write the gradients of `parameters()` into `gradients`. The tape is used up."""
        assert tape.grad_normed_ND is not None
        norm = (self.parts.norm_D, self.parts.eps)
        grad_TD: Tensor | None = self.pieces.rms_norm_backward(tape.grad_normed_ND, tape.inputs.pop(), *norm)
        rooms = self.gradients.rooms  # one for each stack
        each = len(self.layers[0].stacks)
        for number in reversed(range(len(self.layers))):
            layer, x_TD, kept = self.layers[number], tape.inputs.pop(), tape.kept.pop()
            ends = {"first": number == 0, "last": number == len(self.layers) - 1}
            if kept is None:
                _, kept = layer.forward(Stream(x_TD), tape.layout, last=ends["last"])
            assert grad_TD is not None
            grad_TD = layer.backward(grad_TD, x_TD, kept, tape.layout, rooms[number * each :][:each], **ends)


class _Lean(torch.autograd.Function):
    """The decoder as one differentiable function of its adapters' matrices."""

    @staticmethod
    def forward(ctx: Any, decoder: LeanDecoder, batch: PassInputs, *parameters: nn.Parameter) -> Tensor:
        ctx.decoder = decoder
        if decoder.graphs is not None:
            decoder.adapters.find()
            loss, ctx.tape = decoder.graphs.run(batch), None
        else:
            decoder.refresh()
            loss_N, ctx.tape = decoder.forward(batch, train=True)
            loss = loss_N.sum()
        ctx.turn = decoder.turn = object()
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        decoder: LeanDecoder = ctx.decoder
        tape, ctx.tape = ctx.tape, None
        if ctx.turn is None or (tape is None and decoder.turn is not ctx.turn):
            raise RuntimeError(
                "a pass has one backward pass, and a recorded one before the next begins"
            )  # it would lie
        ctx.turn = None
        with as_written(grad_outputs[0].device.type):
            if tape is not None:
                decoder.backward(tape)
            return (None, None, *decoder.gradients.scaled(decoder.unscaled(grad_outputs[0])))


class _LeanTokens(torch.autograd.Function):
    """The same of each token's loss: its gradient at the head is multiplied by what the loss turned out to count."""

    @staticmethod
    def forward(ctx: Any, decoder: LeanDecoder, batch: PassInputs, *parameters: nn.Parameter) -> Tensor:
        ctx.decoder = decoder
        decoder.refresh()
        loss_N, ctx.tape = decoder.forward(batch, train=True)
        return loss_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        decoder: LeanDecoder = ctx.decoder
        tape, ctx.tape = ctx.tape, None
        if tape is None:
            raise RuntimeError("a pass has one backward pass")
        shares_N = grad_outputs[0]
        largest = shares_N.abs().amax().clamp_min(torch.finfo(shares_N.dtype).tiny)  # the rest stays near 1 in 16 bits
        with as_written(shares_N.device.type):
            grad_ND = tape.grad_normed_ND[: len(shares_N)]
            grad_ND.copy_(grad_ND * (shares_N / largest)[:, None])
            decoder.backward(tape)
            return (None, None, *decoder.gradients.scaled(decoder.unscaled(largest)))
