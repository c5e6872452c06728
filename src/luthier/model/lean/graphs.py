r"""Whole passes recorded as CUDA graphs, and replayed without Python.

Forward and backward of a 16-layer model are some 2,000 launches. Where Python needs longer to make them than the
device to work them off, the device waits. A recorded pass is one launch; it can only be replayed with tensors of its
own shapes and at its own places, so a batch is padded to one of few sizes and copied there.

    tokens, positions   as `luthier.model.lean.filling` does it, with the target `luthier.model.head.NO_TARGET`
    documents           more of them, without tokens

The first pass is launched, as that loads what all passes need; from then on a size is recorded when it is first seen.
Where that fails, since this size needs something that cannot be loaded while it is recorded, sizes are launched once
before they are recorded. A batch is padded in any case, so that a resumed run, which has seen nothing yet, computes the
same.

The host need not be asked between two steps: the next batch is laid in its place while the device is busy (`place`),
and its pass started right after the update (`begin`), before anyone tells of the step.

Shape letters: T tokens, N trained tokens.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from luthier.events.printable import one_line
from luthier.machine.memory import is_out_of_memory, unclaimed_bytes, unused_bytes
from luthier.model.head import NO_TARGET
from luthier.model.lean.filling import PassInputs, filled, power_of_2

if TYPE_CHECKING:
    from luthier.model.lean.decoder import LeanDecoder

MOST_SHAPES = 64
"""Each recorded pass holds its list of launches in memory."""
_DOCUMENTS, _LONGEST = 16, 512
_PARTS = 16
"""A batch is padded by one of so many at most. Counted over rows as long as those of the headline job: 2 % more work in
46 sizes; with 8 parts 4 % in 25, with 32 more sizes than are recorded."""
_MOVING_ROTATIONS = ("dynamic", "longrope")
"""They ask the device for its largest position, which cannot be recorded."""
_TENSORS = ("input_ids", "position_ids", "cu_seq_lens")

Recorder = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Makes of a function that computes a loss one that does the same again, with whatever lies in the same tensors."""


@dataclass(frozen=True)
class _Recorded:
    """A pass, and the tensors that it reads its batch from."""

    tensors: list[Tensor]
    replay: Callable[[], Tensor]

    def read(self, tensors: list[Tensor]) -> None:
        """Take another batch of the same size."""
        for place, values in zip(self.tensors, tensors, strict=True):
            place.copy_(values)


@dataclass
class _Next:
    """The pass that comes next: the positions of its batch, by which it is known again, and its loss once it began."""

    positions_N: Tensor
    recorded: _Recorded
    loss: Tensor | None = None


class Graphs:
    """The recorded passes of a decoder.

    Attributes:
        refused: Why no more are made, when recording failed or memory ran out. Those that there are stay, unless it was
            in a pass that memory ran out, or CUDA broke the recording off.
        made: How many passes were more than a replay: launched, or recorded first.

    Args:
        decoder: Whose passes they are.
        recorder: `CudaRecorder()`.
    """

    def __init__(self, decoder: LeanDecoder, recorder: Recorder) -> None:
        self._decoder, self._recorder = decoder, recorder
        self._recorded: dict[tuple[Any, ...], _Recorded] = {}
        self._seen: set[tuple[Any, ...]] = set()
        self._at_first_sight = True
        self._places: list[int] = []
        self._said: set[str] = set()
        self._next: _Next | None = None
        on_cuda = decoder.parameters()[0].is_cuda
        self._used: Any = torch.cuda.Event() if on_cuda else None  # type: ignore[no-untyped-call]
        self.refused = self._news = ""
        self.made = 0

    def run(self, batch: PassInputs) -> Tensor:
        """The loss of a pass; its gradients are left in the decoder's `gradients`."""
        ready, self._next = self._next, None
        if ready is not None and ready.loss is not None and ready.positions_N is batch.positions_N:
            return self._taken(ready.loss)
        key, batch, tensors = _keyed(batch)
        self._forget_what_moved()
        self.made += key not in self._recorded
        known = key in self._seen or (self._at_first_sight and bool(self._seen))
        if key not in self._recorded and known and self._can_record(tensors[0].device):
            self._record(key, batch.inputs, tensors)
        self._seen.add(key)
        if (recorded := self._recorded.get(key)) is None:
            return self._decoder.whole_pass(batch)
        recorded.read(tensors)
        return self._taken(recorded.replay())

    def place(self, batch: PassInputs) -> None:
        """Lay a batch where its recording reads it, where there is one, so that `begin` only has to start it.

        All passes before it are queued already.
        """
        key, _, tensors = _keyed(batch)
        recorded = self._recorded.get(key)
        self._next = None
        if recorded is not None:
            recorded.read(tensors)
            self._next = _Next(batch.positions_N, recorded)

    def begin(self) -> bool:
        """Start the pass of the batch that was placed; `run` with it then gives its loss. False: none was.

        Nor is one where memory runs out: `run` meets it again, where it can be dealt with.
        """
        self._forget_what_moved()
        if self._next is None:
            return False
        self._decoder.turn = None  # the gradients there are will be those of this pass
        try:
            self._next.loss = self._next.recorded.replay()
            self._mark()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._next = None
        return self._next is not None

    def news(self) -> str:
        """Why a pass that came again was not recorded, each reason once; empty when there is nothing new."""
        text, self._news = self._news, ""
        return text

    def give_up(self, reason: str) -> bool:
        """Free what was recorded, and record nothing any more; False, and nothing done, where there was nothing."""
        if not self._recorded:
            return False
        self.refused = reason
        self.forget()
        return True

    def forget(self) -> None:
        """Free the recorded passes: what they do, or the memory there is, has changed."""
        if self._recorded and self._used is not None:
            # one of them may be at work: begun, or asked for its loss and not done yet. The device may have more to do
            # that never ends, such as a sum with a rank that is gone; and one that is broken is not waited for
            with suppress(RuntimeError):
                self._used.synchronize()
        self._recorded, self._seen, self._next = {}, set(), None

    def _taken(self, loss: Tensor) -> Tensor:
        """The loss, out of the memory of its recording: pieces that grow go back without waiting for who reads them."""
        loss = loss.clone()
        self._mark()
        return loss

    def _mark(self) -> None:
        if self._used is not None:
            self._used.record()

    def _forget_what_moved(self) -> None:
        places = [p.data_ptr() for p in self._decoder.parameters()]
        if places != self._places:
            self.forget()
            self._places = places

    def _can_record(self, device: torch.device) -> bool:
        if self.refused:
            return False
        if len(self._recorded) >= MOST_SHAPES:
            self._say(f"there are {MOST_SHAPES} recordings, one for each size")
        elif not _room_for_another(device, first=not self._recorded):
            self._say("too little memory is free")
        else:
            return True
        return False

    def _say(self, why: str) -> None:
        if why not in self._said:
            self._said.add(why)
            self._news = why

    def _record(self, key: tuple[Any, ...], inputs: dict[str, Any], tensors: list[Tensor]) -> None:
        tensors = [x.clone() for x in tensors]
        *named, positions_N, targets_N = tensors
        batch = PassInputs(inputs | dict(zip(_TENSORS, named, strict=True)), positions_N, targets_N)
        try:
            replay = self._recorder(lambda: self._decoder.whole_pass(batch))
        except Exception as error:  # out of memory, or a kernel that cannot be compiled for this size
            # where CUDA has broken the recording off, its end raises too, and says less; no name may hold on to either
            broken_off = error.__context__ is not None
            reason, of_memory = one_line(str(error.__context__ or error)), is_out_of_memory(error.__context__ or error)
            if key in self._seen or of_memory:
                self.refused = reason
                self._say(reason)
            else:
                self._at_first_sight = False
            if broken_off:
                self.forget()  # they share its memory, and torch's record of it has no end
            return
        self._recorded[key] = _Recorded(tensors, replay)


class CudaRecorder:
    """Records on the device. All recordings share the memory of what is forgotten at the end of a pass.

    They have a stream of their own: torch keeps cuBLAS's memory for each stream, and frees that of a stream whose
    recording goes. On the stream that all processes' recordings share by default, one run would free another's.
    """

    def __init__(self) -> None:
        self._last: Callable[[], Any] = lambda: None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `Recorder`. Nothing is computed yet."""
        graph, last = torch.cuda.CUDAGraph(), self._last()
        self._stream = stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        pool = torch.cuda.graph_pool_handle() if last is None else last.pool()
        try:
            # the outer one brings the stream back when a recording fails; other threads use the device meanwhile
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
            ):
                loss = work()
        except BaseException:
            _stop_recording_into(pool)
            raise
        self._last = weakref.ref(graph)  # a pool goes with the last recording in it

        def replay() -> Tensor:
            graph.replay()
            return loss

        return replay


def _stop_recording_into(pool: Any) -> None:
    """What the end of a recording leaves undone where CUDA has called the recording invalid.

    The allocator would take it for one that still goes on: it would give nothing back before memory runs out, and
    `empty_cache` would fail. Where the end was a proper one this does nothing.
    """
    device = torch.cuda.current_device()
    with suppress(RuntimeError):  # nothing is recorded into it
        torch._C._cuda_endAllocateToPool(device, pool)
        torch._C._cuda_releasePool(device, pool)
    # torch 2.11 would take its random numbers for recorded until the next recording ends as it should
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with suppress(RuntimeError), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        torch.zeros(1, device="cuda")


def can_record(rotation: Any) -> bool:
    """Whether passes with these position embeddings of transformers can be recorded."""
    return getattr(rotation, "rope_type", "default") not in _MOVING_ROTATIONS


def _keyed(batch: PassInputs) -> tuple[tuple[Any, ...], PassInputs, list[Tensor]]:
    """What a batch's size is called, the batch in it, and its tensors."""
    batch = padded(batch)
    tensors = [*(batch.inputs[name] for name in _TENSORS), batch.positions_N, batch.targets_N]
    return (*(tuple(x.shape) for x in tensors), batch.inputs["longest"]), batch, tensors


def padded(batch: PassInputs) -> PassInputs:
    """The batch in one of few sizes."""
    offsets, starts = batch.inputs["document_offsets"], batch.inputs["cu_seq_lens"]
    inputs, positions_N, targets_N = filled(batch, _PARTS)
    tokens = inputs["input_ids"].shape[1]
    documents = max(_DOCUMENTS, power_of_2(len(offsets)))
    longest = max(b - a for a, b in zip(offsets, (*offsets[1:], tokens), strict=True))
    padding = {
        "cu_seq_lens": pad(starts, (0, documents + 1 - len(starts)), value=tokens),
        "longest": max(_LONGEST, power_of_2(longest)),
    }
    on_device = {name: value for name, value in inputs.items() if name != "document_offsets"}  # else replayed as it was
    targets_N = pad(targets_N, (0, len(positions_N) - len(targets_N)), value=NO_TARGET)
    return PassInputs(on_device | padding, positions_N, targets_N)


def _room_for_another(device: torch.device, *, first: bool) -> bool:
    """Whether the device has as much free as a pass takes: recorded ones share that, beside those that are launched."""
    if device.type != "cuda":
        return True
    passing = unused_bytes(device)
    return unclaimed_bytes(device) >= (passing if first else passing // 8)  # a larger one takes a little more
