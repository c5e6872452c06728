"""The forms that a run can take, by name: what `luthier export --to` knows."""

from __future__ import annotations

from functools import partial

from luthier.export.gguf_run import FILE, Companion, export_gguf
from luthier.export.hub_run import export_hub as hub
from luthier.export.ollama import MODELFILE, modelfile_of
from luthier.export.run import merge_run as safetensors
from luthier.generate.load import Tuned
from luthier.model.forward import unwrap

gguf = export_gguf


def _modelfile(tuned: Tuned) -> Companion:
    from luthier.data.template import adds_bos
    from luthier.export.gguf_file import context_length

    bos = tuned.tokenizer.bos_token if adds_bos(tuned.tokenizer) else ""
    context = context_length(unwrap(tuned.model).config)
    return Companion(MODELFILE, *modelfile_of(FILE, tuned.tokenizer, tuned.stop_ids, context, bos))


ollama = partial(export_gguf, name="ollama", companion=_modelfile)

__all__ = ["gguf", "hub", "ollama", "safetensors"]
