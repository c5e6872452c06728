"""Trained weights to disk and back: peft's adapter format, or the whole model after full fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

ADAPTER = "adapter_model.safetensors"
WEIGHTS = "model.safetensors"


def save_trained(model: nn.Module, folder: Path) -> None:
    """Write the adapter (float32, peft's format) or the full model into `folder`."""
    saved: Any = model
    if isinstance(model, PeftModel):
        # peft would ask the hub whether the vocabulary was resized; Luthier never resizes it.
        saved.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
        readme = folder / "README.md"
        readme.unlink(missing_ok=True)
    else:
        saved.save_pretrained(folder, safe_serialization=True, max_shard_size="1000GB")


def load_trained(model: nn.Module, folder: Path) -> None:
    """Put back what `save_trained` wrote.

    Raises:
        ValueError: When tensors are missing, unexpected or of another shape.
    """
    if isinstance(model, PeftModel):
        tensors = load_file(folder / ADAPTER)
        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        _check_fit({k: v.shape for k, v in expected.items()}, {k: v.shape for k, v in tensors.items()})
        set_peft_model_state_dict(model, tensors)
        return
    tensors = load_file(folder / WEIGHTS)
    own = model.state_dict()
    tied = {name for name in own if name not in tensors and _is_tied(own, name)}
    _check_fit({k: v.shape for k, v in own.items() if k not in tied}, {k: v.shape for k, v in tensors.items()})
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _is_tied(state: dict[str, torch.Tensor], name: str) -> bool:
    """Whether another entry shares this one's memory (a tied head is saved once)."""
    return any(other != name and state[other].data_ptr() == state[name].data_ptr() for other in state)


def _check_fit(expected: dict[str, torch.Size], found: dict[str, torch.Size]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            shapes = [tuple(s) if s is not None else "nothing" for s in (expected.get(name), found.get(name))]
            raise ValueError(f"{name}: the model has {shapes[0]}, the file {shapes[1]}")
