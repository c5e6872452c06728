"""What the JSON files of a model, a tokenizer or an adapter may ask for, before a library reads them.

    code     names of classes, kernels or modules that lie outside of the libraries: such a name has been enough to run
             code of the model's repository although nobody had allowed that
    sizes    whether config.json can belong to the weights beside it: one that is damaged or hostile asks for a million
             layers, and libraries compare sizes only when such a model has filled all memory

Not covered: the sizes of models on the hub, whose weights are not here yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.utils import cached_file

from luthier.errors import ModelError, Problem
from luthier.machine.hub import out_of_reach

MAX_LAYERS = 2000
MOST_PARAMETERS_PER_BYTE = 8
"""Weights of 4 bits are two parameters a byte."""
FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json")
_OWN_KERNELS = {"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "grouped_mm", "batched_mm"}
_CLASSES = ("architectures", "tokenizer_class", "processor_class", "image_processor_type", "feature_extractor_type")
_CODE = ("auto_map", "custom_pipelines", "custom_generate", "megatron_config")
_FOREIGN = re.compile(r"[^A-Za-z0-9_]")


def check_code(name: str, revision: str | None = None) -> None:
    """None of the JSON files of a folder, or of a model on the hub, names code outside of the libraries.

    A file that is not there or cannot be read is left to the library that wants it.

    Raises:
        ModelError: E-MODEL-005.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        out_of_reach()
    for file in FILES:
        path: str | Path | None = folder / file
        if not folder.is_dir():
            try:
                path = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
            except (OSError, ValueError):
                if file == FILES[0]:  # no such model here, as who loads it will say
                    return
                continue
        try:
            content = json.loads(Path(path or "").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if asked := next(_asks_for_code(content), ""):
            fix = f"delete it from {file}; if you have read that code and trust it: model.trust_remote_code: true"
            raise ModelError(Problem("E-MODEL-005", f"{file} of {name} asks for {asked}", fix, str(name)))


def _asks_for_code(content: Any) -> Iterator[str]:
    """What in a JSON file would make a library import or fetch something, at any depth."""
    if isinstance(content, list):
        for item in content:
            yield from _asks_for_code(item)
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if value in (None, {}, []):
            continue
        if _is_code(key, value):
            yield f"{key} {value!r}"
        else:
            yield from _asks_for_code(value)


def _is_code(key: str, value: Any) -> bool:
    """Whether a library would take this value for the name of something to import or to fetch."""
    if key in _CODE or key.endswith("_implementation_internal"):
        return True
    if key.endswith("_implementation"):
        return not _all_in(value, _OWN_KERNELS)
    if key == "auto_mapping":
        return not str(_of(value, "parent_library")).startswith("transformers.models.")
    return key in _CLASSES and any(_FOREIGN.search(str(n)) for n in (value if isinstance(value, list) else [value]))


def _all_in(value: Any, names: set[str]) -> bool:
    """Whether a name, or each name of a mapping (one for each part of a model), is one of these."""
    return all(str(name) in names for name in (value.values() if isinstance(value, dict) else [value]))


def _of(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def check_config(name: str, config: PretrainedConfig) -> None:
    """The part about text is a configuration, of no more layers than any model has.

    Raises:
        ModelError: E-MODEL-004.
    """
    text_config: object = config.get_text_config()
    layers = getattr(text_config, "num_hidden_layers", 0)
    found = ""
    if not isinstance(text_config, PretrainedConfig):
        found = f"the text_config in the config.json of {name} is no configuration"
    elif isinstance(layers, int) and layers > MAX_LAYERS:  # one takes a millisecond to build even without weights
        found = f"the config.json of {name} asks for {layers:,} layers"
    if found:
        raise ModelError(Problem("E-MODEL-004", found, "fetch the model again", "model.model_name_or_path"))


def check_size(name: str, model: nn.Module) -> None:
    """Compare the parameters of a model on the meta device with the weights files of its folder, where there are any.

    Raises:
        ModelError: E-MODEL-009 when the files cannot hold them.
    """
    folder = Path(name).expanduser()
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.is_file()) if folder.is_dir() else 0
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if size and parameters > MOST_PARAMETERS_PER_BYTE * size:
        found = f"config.json describes {parameters:,} parameters, the weights files in {name} have {size:,} bytes"
        fix = "use the config.json that belongs to the weights"
        raise ModelError(Problem("E-MODEL-009", found, fix, "model.model_name_or_path"))


def vet(name: str, revision: str | None = None) -> None:
    """All checks of a model, or of an adapter's folder; whatever its files make the libraries raise comes through.

    Raises:
        ModelError: E-MODEL-004, E-MODEL-005, E-MODEL-009.
        SafetensorError: A weights file is cut off.
    """
    check_code(name, revision)
    if not Path(name).is_dir():
        return
    for file in Path(name).glob("*.safetensors"):
        with safe_open(str(file), framework="pt"):
            pass
    if (Path(name) / "adapter_config.json").is_file():
        return
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    check_config(name, config)
    with torch.device("meta"):
        check_size(name, AutoModelForCausalLM.from_config(config, trust_remote_code=False))
