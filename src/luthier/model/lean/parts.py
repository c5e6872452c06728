"""What a decoder of Llama's shape is made of, as the lean path reads it from a model of transformers and peft.

Shape letters: T tokens, N positions, D hidden size, S size of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.model.lean.layer import LeanLayer, Stream
from luthier.model.lean.linears import Build, FP8StackedLinear, StackedLinear


@dataclass(frozen=True)
class Parts:
    """The parameters stay in the model: these read them where they are.

    Attributes:
        layers: In their order.
        embedding: Token ids to vectors.
        rotation: Positions to angles, as transformers computes them.
        norm_D, eps: Of the norm before the head.
        head: From vectors to logits, in one product.
        build: How the layers are made.
    """

    layers: list[LeanLayer]
    embedding: Any
    rotation: Any
    norm_D: Tensor
    eps: float
    head: Any
    build: Build

    @staticmethod
    def of(causal_lm: Any, build: Build) -> Parts:
        """Those of a model that `luthier.model.lean.fit` found nothing against."""
        decoder, head = causal_lm.get_decoder(), causal_lm.get_output_embeddings()
        layers = [LeanLayer(layer, build) for layer in decoder.layers]
        norm = decoder.norm
        norm_D = norm.weight.detach().to(build.dtype)
        return Parts(layers, decoder.embed_tokens, decoder.rotary_emb, norm_D, norm.variance_epsilon, head, build)

    @property
    def stacks(self) -> list[StackedLinear]:
        """The products of all layers, from the first one up."""
        return [stack for layer in self.layers for stack in layer.stacks]

    @property
    def in_8_bits(self) -> bool:
        """Whether products are of 8-bit floats."""
        return any(isinstance(stack, FP8StackedLinear) for stack in self.stacks)

    def begin(self, ids_1T: Tensor, positions_1T: Tensor) -> tuple[Stream, Tensor, Tensor]:
        """The residual stream before the first layer, and cosine and sine (T, S) of the positions' angles."""
        stream = Stream(self.embedding(ids_1T)[0].to(self.build.dtype))
        wide = torch.promote_types(self.build.dtype, torch.float32)  # the angles take the format of what they are given
        cos_1TS, sin_1TS = self.rotation(stream.x_TD.new_empty(1, dtype=wide), position_ids=positions_1T)
        return stream, cos_1TS[0], sin_1TS[0]

    def end(self, stream: Stream) -> Tensor:
        """What the head is given (N, D)."""
        return stream.normed(self.build.pieces, self.norm_D, self.eps)


@contextmanager
def as_written(device: str) -> Iterator[None]:
    """Formats are those that the code names, and products add up in float32, also where cuBLAS splits a long sum."""
    matmul: Any = torch.backends.cuda.matmul
    names = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    before = [getattr(matmul, name) for name in names]
    for name in names:
        setattr(matmul, name, False)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(matmul, name, value)
