"""Trained weights to disk and back: peft's adapter format, or the whole model after full fine-tuning.

The files are the same whether a model is sharded over ranks or not, so a run goes on with any number of them. Of a
sharded one rank 0 writes a tensor at a time, and each rank reads its own rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from luthier.machine.shards import GatherTensor, fill, is_sharded

ADAPTER = "adapter_model.safetensors"
WEIGHTS = "model.safetensors"
_BUFFER = 1 << 20  # bytes; small tensors go to the system together
_FORMATS = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64",
    torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """What is saved of a sharded model, by names that all ranks know: the adapter, or everything."""
    if isinstance(model, PeftModel):
        return {name: p for name, p in model.named_parameters() if p.requires_grad}
    once = dict(model.named_parameters())  # a tied head is saved once
    again = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once.keys()
    return {name: tensor for name, tensor in model.state_dict().items() if name not in again}


def save_trained(
    model: nn.Module, folder: Path, gather: GatherTensor | None = None, *, to_publish: bool = False
) -> None:
    """Write the adapter (float32, peft's format) or the full model into `folder`.

    Args:
        model: The model.
        folder: Where to.
        gather: Of a sharded model: gives what `trained` names.
        to_publish: With tensors as they are published, which can be others than the model has (each expert alone,
            Pythia's head under its old name), where transformers does that; `load_trained` reads the model's own.
    """
    saved: Any = model
    if isinstance(model, PeftModel):
        # peft would ask the hub whether the vocabulary was resized; Luthier never resizes it.
        own = {"state_dict": {name: gather(name) for name in trained(model)}} if gather else {}
        saved.create_or_update_model_card = lambda folder: None  # 20 ms of each save; Luthier writes its own in the end
        saved.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, **own)
    elif gather:
        saved.save_pretrained(folder, state_dict={})
        write_tensors(folder / WEIGHTS, trained(model), gather)
    else:
        saved.save_pretrained(folder, safe_serialization=True, max_shard_size="1000GB", save_original_format=to_publish)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], gather: GatherTensor) -> None:
    """A safetensors file, written straight from the tensors: no more than one is copied at a time.

        8 bytes: length of the header | header: JSON, name -> format, shape, place | the tensors' bytes

    Wide formats come first, so that each number lies where its format may.

    Raises:
        OSError: It could not be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    for name, tensor in tensors.items():
        start, end = end, end + math.prod(tensor.shape) * tensor.element_size()
        header[name] = {"dtype": _FORMATS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=_BUFFER) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in tensors:
            file.write(gather(name).contiguous().reshape(-1).view(torch.uint8).numpy().data)


def load_trained(model: nn.Module, folder: Path) -> None:
    """Put back what `save_trained` wrote, not to publish.

    Raises:
        ValueError: When tensors are missing, unexpected or of another shape.
    """
    if any(is_sharded(p) for p in model.parameters()):
        _load_parts(model, folder)
        return
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


def _load_parts(model: nn.Module, folder: Path) -> None:
    """This rank's rows of each tensor, one by one."""
    expected, file = trained(model), WEIGHTS
    if isinstance(model, PeftModel):
        expected = get_peft_model_state_dict(model, state_dict=expected, save_embedding_layers=False)
        file = ADAPTER
    with safe_open(str(folder / file), framework="pt") as opened:
        names = opened.keys()
        found = {name: torch.Size(opened.get_slice(name).get_shape()) for name in names}
        _check_fit({name: tensor.shape for name, tensor in expected.items()}, found)
        for name, tensor in expected.items():
            fill(tensor, opened.get_tensor(name))


def _is_tied(state: dict[str, torch.Tensor], name: str) -> bool:
    """Whether another entry shares this one's memory (a tied head is saved once)."""
    return any(other != name and state[other].data_ptr() == state[name].data_ptr() for other in state)


def _check_fit(expected: dict[str, torch.Size], found: dict[str, torch.Size]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            shapes = [tuple(s) if s is not None else "nothing" for s in (expected.get(name), found.get(name))]
            raise ValueError(f"{name}: the model has {shapes[0]}, the file {shapes[1]}")
