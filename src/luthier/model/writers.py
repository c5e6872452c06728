"""Who computes what a model writes: its own layers, or the lean path in their place (`luthier.model.lean.writer`).

    in training       the products of the run's own `LeanDecoder`, with the adapter as it is at that moment
    a loaded model    products of its own, from frozen weights: `write_lean` says that they are

A writer is proven beside the model's own layers when it is made, on a few tokens; one that differs, or fails, is not
used, and the model's own layers write as they always can.

Not covered: sharded models, models that are being trained in full, MPS; position embeddings whose angles depend on the
longest row; what `luthier.model.lean.fit` turns away.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import bitsandbytes
import torch
from torch import Tensor, nn

from luthier.machine.memory import unclaimed_bytes, unused_bytes
from luthier.model.forward import lean_of, unwrap
from luthier.model.lean.adapters import Adapters
from luthier.model.lean.fit import obstacle_to_writing
from luthier.model.lean.graphs import CudaRecorder, can_record
from luthier.model.lean.linears import Build
from luthier.model.lean.parts import Parts
from luthier.model.lean.proof import writes_the_same
from luthier.model.lean.writer import LeanWriter

_WRITERS = "luthier_writers"
_DEVICES = ("cpu", "cuda")
_SHARE = 4
"""4-bit weights are held unpacked for writing where that takes at most one part in so many of the free memory."""


class _Writers:
    """Those of a model: one for each adapter that was active, and one for none. They share the frozen weights.

    Args:
        frozen: Whether nothing but adapters is written into any more.
    """

    def __init__(self, *, frozen: bool) -> None:
        self._frozen = frozen
        self._made: dict[str | None, LeanWriter | None] = {}
        self._held: dict[int, Tensor] = {}
        self._places: list[int] = []
        self._factors: list[dict[str, float]] = []

    def __reduce__(self) -> Any:
        """A copy of the model, or one that is saved whole, makes its own."""
        return partial(_Writers, frozen=self._frozen), ()

    def current(self, model: nn.Module) -> LeanWriter | None:
        """For the adapter that is active now; None: the model's own layers write."""
        adapters: list[Any] = [module for module in model.modules() if hasattr(module, "lora_A")]
        factors = [dict(layer.scaling) for layer in adapters]
        if self._places != _places(model) or self._factors != factors:  # moved to another device or format, or scaled
            self._made.clear()
            self._held.clear()
            self._factors = factors
        active = adapters[0].active_adapters if adapters and not adapters[0].disable_adapters else ()
        if len(active) > 1 or any(layer.merged for layer in adapters):
            return None
        name = active[0] if active else None
        if name not in self._made:
            self._made[name] = self._proven(model, name)
            if not any(self._made.values()):  # memory is short, maybe, and nobody uses what was unpacked
                self._held.clear()
            self._places = _places(model)  # stacked layers have moved
        writer = self._made[name]
        if writer is not None:
            writer.refresh()
        return writer

    def _proven(self, model: nn.Module, adapter: str | None) -> LeanWriter | None:
        causal_lm, lean = unwrap(model), lean_of(model)
        try:
            rotation = getattr(causal_lm.get_decoder(), "rotary_emb", None)
            if not can_record(rotation):  # the longest row would turn the angles of all others
                return None
            if lean is not None:
                writer = LeanWriter(lean.parts, lean.refresh, _recorder(lean.parts) if lean.graphs else None)
            elif self._frozen and not obstacle_to_writing(causal_lm, adapter):
                parts = Parts.of(causal_lm, self._build(causal_lm, adapter))
                writer = LeanWriter(parts, Adapters(parts.stacks, parts.build.pieces).refresh, _recorder(parts))
            else:
                return None
            writer.refresh()
            return writer if writes_the_same(writer, causal_lm) else None
        except Exception:  # out of memory, or what this device cannot compute, each in its own way
            return None

    def _build(self, causal_lm: Any, adapter: str | None) -> Build:
        weights = [module.weight for module in causal_lm.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
        unpacked = sum(w.quant_state.shape.numel() for w in weights) * causal_lm.dtype.itemsize
        free = unclaimed_bytes(causal_lm.device) + unused_bytes(causal_lm.device)
        keep = bool(self._held) or unpacked * _SHARE <= free
        return Build(causal_lm.dtype, keep, {}, adapter=adapter, held=self._held)


def write_lean(model: nn.Module) -> None:
    """Let the lean path write for a loaded model where it can. From now on the values of its frozen weights stay."""
    if next(model.parameters()).device.type in _DEVICES and not hasattr(model, _WRITERS):
        setattr(model, _WRITERS, _Writers(frozen=True))


@contextmanager
def writing(model: nn.Module) -> Iterator[LeanWriter | None]:
    """While the block runs, the model's forward pass is that of a writer, which is yielded; None: it is its own.

    Args:
        model: For evaluation, without gradients.
    """
    if lean_of(model) is not None and not hasattr(model, _WRITERS):
        setattr(model, _WRITERS, _Writers(frozen=False))
    writers: _Writers | None = getattr(model, _WRITERS, None)
    writer = None if writers is None else writers.current(model)
    if writer is None:
        yield None
        return
    own = vars(unwrap(model))
    before = own.get("forward")
    own["forward"] = writer.forward
    try:
        yield writer
    finally:
        del own["forward"]
        if before is not None:
            own["forward"] = before


def _places(model: nn.Module) -> list[int]:
    return [parameter.data_ptr() for parameter in model.parameters()]


def _recorder(parts: Parts) -> CudaRecorder | None:
    return CudaRecorder() if parts.norm_D.is_cuda and torch.version.hip is None else None
