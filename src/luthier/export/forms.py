"""The forms that a run can take, by name: what `luthier export --to` knows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from luthier.export.gguf_run import FILE, export_gguf
from luthier.export.hub_run import export_hub as hub
from luthier.export.ollama import write_modelfile
from luthier.export.run import Known
from luthier.export.run import merge_run as safetensors

gguf = export_gguf


def _with_modelfile(folder: Path, known: Known, config: Any) -> str:
    from luthier.data.template import adds_bos
    from luthier.export.gguf_file import context_length

    bos = known.tokenizer.bos_token if adds_bos(known.tokenizer) else ""
    stops = known.reference.stop_ids
    return write_modelfile(folder, FILE, known.tokenizer, stops, context_length(config), bos)


ollama = partial(export_gguf, name="ollama", more=(_with_modelfile,))

__all__ = ["gguf", "hub", "ollama", "safetensors"]
