"""AdamW over one flat buffer for each group: clipping and update are one kernel, however many matrices are trained.

    gradients of all matrices --one copy--> flat --one kernel--> weights and moments: views of flat buffers

The copy is left out where the gradients are one buffer already (`luthier.model.lean.gradients`): weights and moments
are laid out in its order.

Its state is that of `torch.optim.AdamW`, tensor by tensor, so a checkpoint of one is read by the other. Whoever
replaces a weight or a moment (a resume, another optimizer on the same model) is noticed at the next step: it is copied
in again. Where gradients are copied, they are there twice while it works.

Not covered: parameters of several devices or formats, and steps in which some have no gradient; torch's own update
takes those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_MOMENTS = ("exp_avg", "exp_avg_sq")


def one_buffer(tensors: Sequence[Tensor]) -> Tensor | None:
    """All the tensors as one (flat), when they are what one storage holds; None when they are not."""
    first = tensors[0]
    if type(first) is not Tensor:  # a sharded one is no memory of its own
        return None
    storage = first.untyped_storage()
    place = storage.data_ptr()
    if sum(x.nbytes for x in tensors) != storage.nbytes():
        return None
    if not all(
        x.untyped_storage().data_ptr() == place and x.dtype is first.dtype and x.is_contiguous() for x in tensors
    ):
        return None
    return first.as_strided((storage.nbytes() // first.element_size(),), (1,), 0)


@dataclass
class _Flat:
    """The buffers of one group, in whose `order` parameters lie there, and where their gradients did.

    `views` are what the parameters and their moments should be.
    """

    weights: Tensor
    order: list[int]
    places: list[int]
    moments: tuple[Tensor, Tensor]
    steps: Tensor
    views: list[tuple[Tensor, Tensor, Tensor]]
    step: int


def _whole(group: dict[str, Any], flat: _Flat) -> Tensor:
    """The gradients of a group as they lie in its buffers."""
    gradients = [p.grad for p in group["params"]]
    whole = one_buffer(gradients)
    if whole is None or [g.storage_offset() for g in gradients] != flat.places:
        whole = torch.cat([gradients[number].reshape(-1) for number in flat.order])
    return whole


class FlatAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` whose `clip_and_step` is one kernel for each group.

    Args:
        groups: As those of `torch.optim.AdamW`.
        kernel: `luthier.model.kernels.adamw.adamw`.
        options: As those of `torch.optim.AdamW`.
    """

    def __init__(self, groups: list[dict[str, Any]], *, kernel: Callable[..., None], **options: Any) -> None:
        super().__init__(groups, **options)
        self._kernel = kernel
        self._flat: dict[int, _Flat] = {}
        self._ready: list[tuple[dict[str, Any], _Flat, Tensor]] | None = None

    @torch.no_grad()
    def prepare(self) -> None:
        """Look for the buffers of the gradients that there are: `clip_and_step` then has its kernel to launch alone."""
        self._ready = None
        flats = [self._flat_of(number, group) for number, group in enumerate(self.param_groups)]
        found = [flat for flat in flats if flat is not None]
        if len(found) < len(flats):
            self._flat = {}  # torch's update counts its steps alone
            return
        self._ready = [(group, flat, _whole(group, flat)) for group, flat in zip(self.param_groups, found, strict=True)]

    @property
    def is_ready(self) -> bool:
        """Whether the next `clip_and_step` launches its kernel and nothing else, which leaves out what is no number."""
        return self._ready is not None

    def take_back(self) -> None:
        """Not count the last step: its gradient was no number, and the kernel has moved nothing."""
        for flat in self._flat.values():
            flat.step -= 1
            flat.steps.sub_(1)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As that of torch."""
        self._ready = None
        super().zero_grad(set_to_none)

    @torch.no_grad()
    def clip_and_step(self, norm: Tensor, max_norm: float) -> bool:
        """Clip and update in one go; False, and nothing done, where that is not possible.

        Args:
            norm: Length of the whole gradient, a scalar tensor.
            max_norm: Longer gradients are shortened to it; 0: never.
        """
        if self._ready is None:
            self.prepare()
        ready, self._ready = self._ready, None
        for group, flat, whole in ready or []:
            settings = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
            self._kernel(
                flat.weights, whole, *flat.moments, norm.to(flat.weights.device),
                step=flat.step + 1, max_norm=max_norm, **settings,
            )  # fmt: skip
            flat.step += 1  # not before: where memory runs out as the kernel is loaded, the step is done again
            flat.steps.add_(1)  # the device is busy meanwhile
        return ready is not None

    def _flat_of(self, number: int, group: dict[str, Any]) -> _Flat | None:
        """The buffers of a group, made anew where something was replaced; None where there can be none."""
        params = group["params"]
        if any(p.grad is None or p.dtype is not torch.float32 or p.device != params[0].device for p in params):
            return None
        flat = self._flat.get(number)
        if flat is None or not all(self._is_in(p, views) for p, views in zip(params, flat.views, strict=True)):
            flat = self._adopt(params)
            if flat is not None:
                self._flat[number] = flat
        return flat

    def _is_in(self, p: Tensor, views: tuple[Tensor, Tensor, Tensor]) -> bool:
        state = self.state[p]
        return p.data_ptr() == views[0].data_ptr() and all(
            state.get(name) is view for name, view in zip(_MOMENTS, views[1:], strict=True)
        )

    def _adopt(self, params: list[Tensor]) -> _Flat | None:
        """Copy weights, moments and counters into flat buffers, and let parameters and state be views of them."""
        steps = {int(self.state[p]["step"]) if "step" in self.state[p] else 0 for p in params}
        if len(steps) > 1:
            return None
        places = [int(p.grad.storage_offset()) if p.grad is not None else 0 for p in params]
        order = sorted(range(len(params)), key=places.__getitem__)  # stable: apart, they all lie at 0
        sizes = [params[number].numel() for number in order]
        weights = torch.cat([params[number].detach().reshape(-1) for number in order])
        buffers = (weights, torch.zeros_like(weights), torch.zeros_like(weights))
        counters = torch.full((len(params),), float(*steps), device=weights.device)
        views: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for number, *pieces in zip(order, *(torch.split(b, sizes) for b in buffers), strict=True):
            p = params[number]
            weight, *moments = (piece.view(p.shape) for piece in pieces)
            state = self.state[p]
            for name, moment in zip(_MOMENTS, moments, strict=True):
                if name in state:
                    moment.copy_(state[name])
                state[name] = moment
            state["step"] = counters[number]
            p.data = weight
            views[number] = (weight, *moments)
        in_place = [views[number] for number in range(len(params))]
        return _Flat(weights, order, places, buffers[1:], counters, in_place, *steps)
