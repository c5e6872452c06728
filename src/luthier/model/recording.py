"""Recorded passes of a model, asked of any model: where none are recorded, nothing is done and nothing is said.

    place_next   lays the batch of the next pass where its recording reads it        while the device is busy
    begin_next   starts that pass, before anyone asks for its loss                   right after the update

Not covered: what a recording is, and when one is made (`luthier.model.lean.graphs`).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from luthier.model.forward import Batch, lean_of
from luthier.model.lean.filling import PassInputs
from luthier.model.lean.graphs import Graphs


def records(model: nn.Module) -> bool:
    """Whether passes of this model are recorded."""
    return _graphs(model) is not None


def place_next(model: nn.Module, batch: Batch) -> None:
    """Lay the batch of the next `summed_loss` where its recorded pass reads it, if there is one."""
    graphs = _graphs(model)
    if graphs is not None:
        graphs.place(PassInputs(batch.model_inputs(), batch.positions_N, batch.targets_N))


def begin_next(model: nn.Module) -> bool:
    """Start the pass of the batch that was placed, before anyone asks for its loss; False: there is none."""
    graphs = _graphs(model)
    return graphs is not None and graphs.begin()


def passes_made(model: nn.Module) -> int:
    """How many passes so far were more than a replay; 0 where passes are not recorded."""
    graphs = _graphs(model)
    return 0 if graphs is None else graphs.made


def forget_recordings(model: nn.Module) -> None:
    """Free the recorded passes of a model, where there are any."""
    graphs = _graphs(model)
    if graphs is not None:
        graphs.forget()


def give_up_recordings(model: nn.Module, reason: str) -> bool:
    """Free them, and record nothing any more; False, and nothing done, where there was nothing."""
    graphs = _graphs(model)
    return graphs is not None and graphs.give_up(reason)


def recording_failed(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Why some passes are not recorded, said once, and the line that does without."""
    graphs = _graphs(model)
    if graphs is not None and (why := graphs.news()):
        yield f"passes that are not recorded yet are launched anew: {why}", "training.cuda_graphs: false"


def _graphs(model: nn.Module) -> Graphs | None:
    lean = lean_of(model)
    return None if lean is None else lean.graphs
