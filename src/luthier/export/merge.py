r"""The adapter added into the weights that it was trained on, once and for all: W' = W + (lora_alpha / r) B A.

        W (16 bits, or 4 bits unpacked) --float32--.
                                                   (+)--> W' --rounded once--> 16 bits
        A, B (float32) -----------------float32----'

A layer at a time, by peft's own `merge`, so that whatever peft trains (rsLoRA, DoRA, PiSSA, embeddings) is merged as
peft defines it, and memory holds one layer in float32.

Onto which weights? An adapter that was trained on 4-bit weights has learned to work with exactly the values that these
16 steps stand for, rounding errors included. `trained` merges onto those values (never into 4 bits: the sum is stored
in 16 or 32 bits); `files` merges onto the weights in the base's files, which is another model than the one that was
trained and measured. docs/export.md has both, measured.

A head that shares its matrix with the embedding (tied) stays tied when both learned the same, and becomes a matrix of
its own when only one of them was trained.

Not covered: several adapters.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from luthier.config.outputs import MANIFEST, TRAINED_ON
from luthier.errors import ModelError, Problem
from luthier.generate.load import final_folder
from luthier.generate.system import trained_system
from luthier.generate.weights import FILES, Base, format_of_files, load_tuned
from luthier.model.forward import DTYPES
from luthier.model.store import save_trained

Onto = Literal["trained", "files"]
_OF_THE_ADAPTER = {"adapter_config.json", "adapter_model.safetensors", "model.safetensors", "config.json",
                   MANIFEST, "README.md", TRAINED_ON}  # fmt: skip


@dataclass(frozen=True)
class Merged:
    """A merged model in memory.

    Attributes:
        model: Of transformers, without peft; in evaluation mode.
        run: The final_model folder that it came from.
        base: What the run says of its base.
        onto: Which weights the adapter was added to; empty after full fine-tuning, where there is nothing to add.
        dtype: Number format that its weights are to be stored in.
    """

    model: nn.Module
    run: Path
    base: Base
    onto: str
    dtype: torch.dtype

    @property
    def elsewhere(self) -> bool:
        """Whether the adapter was added to other weights than those that it was trained on."""
        return self.onto == "files" and self.base.rounded


def merged(
    run: str | Path, base: str | None = None, onto: Onto = "trained", dtype: torch.dtype | None = None
) -> Merged:
    """Merge a run.

    Args:
        run: Its output folder, or its final_model folder.
        base: Where the base model is, when it is not where it was in training.
        onto: `trained`: the frozen weights as the training computed with them; `files`: as in the base's files.
        dtype: Format of the merged weights; None: that of the base's files.

    Raises:
        ModelError: What `luthier.generate.weights.load_tuned` raises; E-EXPORT-009 when the format cannot hold a
            weight.
    """
    folder = final_folder(run)
    trained_on = Base.of(folder, base)
    under = replace(trained_on, unpacked=trained_on.quantization is not None)
    if onto == "files":
        under = replace(trained_on, quantization=None, base_precision="default", dtype="auto")
    model = load_tuned(folder, under, float32_adapter=True)
    adapter = isinstance(model, PeftModel)
    # A full model was saved in float32, the format of its optimizer; its base was in `dtype`.
    stored = dtype or _stored_format(trained_on)
    plain = _added(model, stored) if isinstance(model, PeftModel) else model
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(stored)
        if not torch.isfinite(parameter.data).all():
            found = f"{name} has numbers that {stored} cannot hold"
            raise ModelError(Problem("E-EXPORT-009", found, "--dtype bfloat16, which has the range of float32"))
    plain.config.dtype = stored
    return Merged(plain.eval(), folder, trained_on, onto if adapter else "", stored)


def _stored_format(base: Base) -> torch.dtype:
    """The number format in which the base was published; bfloat16 where it does not say."""
    return format_of_files(base) or DTYPES.get(base.dtype, torch.bfloat16)


def _added(model: PeftModel, stored: torch.dtype) -> nn.Module:
    """The model with the adapter in its weights and without peft's layers."""
    causal_lm: Any = model.get_base_model()
    embedding, head = (_own(layer) for layer in (causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()))
    tied = head is not None and embedding.weight is head.weight
    if tied:  # merging one of them must not move the other
        head.weight = nn.Parameter(head.weight.data.clone(), requires_grad=False)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            below = module.get_base_layer()
            for parameter in below.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.float32)
            module.merge()
            for parameter in below.parameters(recurse=False):
                parameter.data = parameter.data.to(stored)
    plain: Any = model.unload()
    if tied:
        ends = plain.get_input_embeddings(), plain.get_output_embeddings()
        same = torch.equal(*(end.weight.data.to(stored) for end in ends))
        plain.config.get_text_config().tie_word_embeddings = plain.config.tie_word_embeddings = same
        if same:
            ends[1].weight = ends[0].weight
    return plain  # type: ignore[no-any-return]


def _own(layer: Any) -> Any:
    """The layer of transformers under what peft put around it."""
    if isinstance(layer, BaseTunerLayer):
        return layer.get_base_layer()
    return getattr(layer, "original_module", layer)


def write_folder(merged: Merged, folder: Path) -> None:
    """Write the merged model as transformers reads it, with the run's tokenizer, template and generation config."""
    save_trained(merged.model, folder, to_publish=True)
    for file in merged.run.iterdir():
        if file.is_file() and file.name not in _OF_THE_ADAPTER:
            shutil.copyfile(file, folder / file.name)
    base = merged.base
    origin = {"base": base.name or None, "revision": base.revision, "merged_onto": merged.onto or None}
    numbers = {"dtype": str(merged.dtype).removeprefix("torch."), "quantization": None, FILES: base.files}
    written = {**origin, **numbers, "system": trained_system(merged.run) or None}
    (folder / TRAINED_ON).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
