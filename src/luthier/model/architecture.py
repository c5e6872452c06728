"""The model as a list of modules, for the architecture view and the graph."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from luthier.events.types import Architecture
from luthier.model.forward import unwrap


def describe_modules(model: nn.Module) -> Architecture:
    """One entry a module that owns parameters or children, in the order of the forward pass."""
    modules: list[dict[str, Any]] = []
    root = unwrap(model)
    for name, module in root.named_modules():
        own = list(module.parameters(recurse=False))
        modules.append(
            {
                "name": name or _class_name(root),
                "type": _class_name(module),
                "parameters": sum(logical_size(p) for p in module.parameters()),
                "trainable": sum(p.numel() for p in module.parameters() if p.requires_grad),
                "shape": " ".join("x".join(str(n) for n in logical_shape(p)) for p in own),
            }
        )
    return Architecture(
        parameters=sum(logical_size(p) for p in root.parameters()),
        trainable_parameters=sum(p.numel() for p in root.parameters() if p.requires_grad),
        modules=modules,
    )


def _class_name(module: nn.Module) -> str:
    """Of the class that the model has; FSDP makes one of its own from it."""
    return type(module).__name__.removeprefix("FSDP")


def logical_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Shape before 4-bit packing."""
    state = getattr(parameter, "quant_state", None)
    return tuple(state.shape) if state is not None else tuple(parameter.shape)


def logical_size(parameter: nn.Parameter) -> int:
    """Number of weights before 4-bit packing (two of them share a byte)."""
    return math.prod(logical_shape(parameter))
