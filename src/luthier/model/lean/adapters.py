"""The copies that stacks hold of their adapters' values, written anew before each pass: by a kernel all in one launch.

Whoever replaces the storage of a parameter (a resume, another optimizer) is noticed before the next pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.model.lean.pieces import Pieces

if TYPE_CHECKING:
    from luthier.model.lean.linears import StackedLinear


class Adapters:
    """Those of all stacks of a model."""

    def __init__(self, stacks: Sequence[StackedLinear], pieces: Pieces) -> None:
        self._stacks, self._kernel = stacks, pieces.copies
        self._sources = [p for stack in stacks for p in stack.parameters()]
        self._places: list[int] = []
        self._copies: Any = None

    def find(self) -> None:
        """Look where the parameters are. To be called before each pass, and not while one is recorded."""
        if self._kernel is None:
            return
        places = [p.data_ptr() for p in self._sources]
        if places == self._places:
            return
        self._places = places
        if any(not p.is_contiguous() or p.dtype is not self._sources[0].dtype for p in self._sources):
            self._copies = None
        elif self._copies is None:
            targets, factors = zip(*(copy[1:] for stack in self._stacks for copy in stack.copies), strict=True)
            self._base = targets[0]
            self._copies = self._kernel(self._sources, targets, factors, self._base)
        else:
            self._copies.find(self._sources)

    def refresh(self) -> None:
        """Copy the values, from where `find` saw the parameters last."""
        if self._copies is not None:
            self._copies.run(self._base)
            return
        for stack in self._stacks:
            stack.refresh()
