"""The forms that a run can take, by name."""

from luthier.export.gguf_run import export_gguf as gguf
from luthier.export.run import merge_run as safetensors

__all__ = ["gguf", "safetensors"]
