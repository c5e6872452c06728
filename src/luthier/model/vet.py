"""Whether a config.json can belong to the weights beside it, before anything of the sizes it names is built.

A damaged or hostile config.json can ask for a million layers or a table of a billion rows. Libraries compare sizes when
they load weights, and by then such a model has filled all memory.

Not covered: models on the hub, whose weights are not here yet.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from luthier.errors import ModelError, Problem

MAX_LAYERS = 2000
MOST_PARAMETERS_PER_BYTE = 8
"""Weights of 4 bits are two parameters a byte."""


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


def vet(name: str) -> None:
    """Both checks of a local folder; whatever its files make the libraries raise comes through.

    Raises:
        ModelError: E-MODEL-004, E-MODEL-009.
        SafetensorError: A weights file is cut off.
    """
    if not Path(name).is_dir():
        return
    for file in Path(name).glob("*.safetensors"):
        with safe_open(str(file), framework="pt"):
            pass
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    check_config(name, config)
    with torch.device("meta"):
        check_size(name, AutoModelForCausalLM.from_config(config, trust_remote_code=False))
