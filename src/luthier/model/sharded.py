"""A model sharded over the ranks of a run by PyTorch's FSDP2 (`fully_shard`): parameters, gradients, moments.

    config.json --> every parameter on the meta device: shapes, no memory
                --> peft's adapter beside them, with the random numbers that one process would draw
    for each layer, then for what is left:
        its tensors, one by one, from the mapped files --> the run's format, maybe 4 bits --> this rank keeps its rows

So no rank ever holds more of the model than one layer and its own part of the others. While a layer computes, its
weights are gathered; so are those outside of the layers (embedding, last norm, head) during a whole pass.

4-bit weights are stored as numbers of the compute format (bitsandbytes' `quant_storage`), two to eight of them in each;
the constants of the quantization (a thirtieth of it, an eighth without double quantization) are whole on every rank.

Full fine-tuning in 16 bits gathers 16-bit weights and adds up float32 gradients; everything else is as unsharded.

Source: torch.distributed.fsdp.fully_shard (FSDP2). Not covered: weights that transformers puts together from several
tensors of the file (experts of some mixtures), tensor and pipeline parallelism, offloading.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import init_empty_weights
from bitsandbytes.functional import quantize_4bit
from bitsandbytes.nn import Params4bit
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.quantizers import AutoHfQuantizer

from luthier.config.plan import Plan
from luthier.errors import ModelError, Problem
from luthier.machine.heap import give_back_at_once
from luthier.model.adapter import add_adapter
from luthier.model.forward import DTYPES, PASS
from luthier.model.hashes import base_folder
from luthier.model.hub import KEY, broken_weights

_BLOCK = 64
"""Weights that share a constant: what transformers has bitsandbytes use."""


@dataclass(eq=False)
class _Blank:
    """A parameter without memory: its name in the file, its shape and format, and where it belongs."""

    name: str
    like: nn.Parameter
    places: list[tuple[nn.Module, str]] = field(default_factory=list)

    def put(self, parameter: nn.Parameter) -> None:
        for module, attribute in self.places:
            module._parameters[attribute] = parameter


def load_sharded(
    plan: Plan, model_config: PretrainedConfig, dtype: torch.dtype, quantization: BitsAndBytesConfig | None
) -> nn.Module:
    """The model that the plan describes; this rank holds its part of each tensor.

    All ranks call it; it waits for none of them.

    Args:
        plan: The plan of a run with several ranks.
        model_config: config.json of the model.
        dtype: Of frozen weights, or of all where all are trained.
        quantization: How frozen linear layers are stored in 4 bits.

    Raises:
        ModelError: E-MODEL-008..010, E-MODEL-016.
    """
    if plan.machine.device == "cpu":
        give_back_at_once()
    causal_lm = _skeleton(plan, model_config, dtype, quantization)
    blanks = list(_blanks(causal_lm))
    model: nn.Module = causal_lm
    lora = plan.config.training.finetuning_type == "lora"
    if lora:
        for blank in blanks:  # peft makes the adapter where a weight seems to be: one number, seen as a whole matrix
            seeming = torch.zeros(1, dtype=blank.like.dtype).expand(blank.like.shape)
            blank.put(_like(blank.like, seeming))
        model = add_adapter(causal_lm, plan.config.lora, revision=plan.config.model.revision)
    device = torch.device(plan.machine.device)
    mesh = init_device_mesh(device.type, (plan.machine.world_size,))
    narrow = None if lora or plan.config.model.dtype == "float32" else DTYPES[plan.config.model.dtype]
    policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)
    with _Files(plan) as files:
        for part in (*_layers(causal_lm), causal_lm):
            inside = set(part.modules())
            for blank in [b for b in blanks if b.places[0][0] in inside]:
                _load(blank, files, device, trained=not lora, quantization=quantization)
                blanks.remove(blank)
            fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
            part.set_gradient_divide_factor(1.0)  # the loss is divided by all trained tokens already
            part.set_force_sum_reduction_for_comms(True)
    for module in causal_lm.modules():
        if getattr(module, "quant_state", None) is not None:
            module.weight.quant_state = module.quant_state
    setattr(causal_lm, PASS, lambda work: work())
    register_fsdp_forward_method(causal_lm, PASS)
    return model


def _skeleton(
    plan: Plan, model_config: PretrainedConfig, dtype: torch.dtype, quantization: BitsAndBytesConfig | None
) -> Any:
    """The model with its buffers, and parameters on the meta device."""
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            model_config, dtype=dtype, trust_remote_code=plan.config.model.trust_remote_code
        )
        if quantization is not None:
            quantizer = AutoHfQuantizer.from_config(quantization)
            quantizer.preprocess_model(model, device_map=None)
            quantizer.postprocess_model(model)
    _require_plain(model)
    model.tie_weights()
    model.name_or_path = plan.config.model.model_name_or_path
    return model


def _require_plain(model: Any) -> None:
    """Each tensor of the model is one of the file, in one format.

    Raises:
        ModelError: E-MODEL-016.
    """
    found = ""
    if any(isinstance(step, WeightConverter) for step in get_model_conversion_mapping(model)):
        found = f"transformers puts tensors of {type(model).__name__} together from several of its files"
    elif model._keep_in_fp32_modules or model._keep_in_fp32_modules_strict:
        found = f"some layers of {type(model).__name__} are kept in float32"
    if found:
        raise ModelError(Problem("E-MODEL-016", found, "write fsdp: false", "training.fsdp"))


def _blanks(model: nn.Module) -> Iterator[_Blank]:
    found: dict[int, _Blank] = {}
    for prefix, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{attribute}" if prefix else attribute
            found.setdefault(id(parameter), _Blank(name, parameter)).places.append((module, attribute))
    return iter(found.values())


def _like(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    """A frozen parameter of the same class: bitsandbytes' remembers how it is quantized."""
    if not isinstance(parameter, Params4bit):
        return nn.Parameter(values, requires_grad=False)
    return Params4bit(  # type: ignore[no-any-return]
        values,
        requires_grad=False,
        compress_statistics=parameter.compress_statistics,
        quant_type=parameter.quant_type,
        quant_storage=parameter.quant_storage,
    )


def _layers(causal_lm: Any) -> list[nn.Module]:
    """The modules of the decoder's longest list: each is gathered by itself."""
    lists = [list(child) for child in causal_lm.get_decoder().children() if isinstance(child, nn.ModuleList)]
    return max(lists, key=len, default=[])


class _Files(ExitStack):
    """The tensors of the base model's files, mapped."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._name = plan.config.model.model_name_or_path
        folder = base_folder(plan.config.model)
        paths = sorted(folder.glob("*.safetensors")) if folder else []
        self._of: dict[str, Any] = {}
        for path in paths:
            try:
                file = self.enter_context(safe_open(str(path), framework="pt"))
            except (SafetensorError, OSError) as error:
                raise ModelError(broken_weights(str(path), error)) from error
            self._of |= dict.fromkeys(file.keys(), file)

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor.

        Raises:
            ModelError: E-MODEL-016, it is not there; E-MODEL-009, it is of another shape; E-MODEL-010.
        """
        if name not in self._of:
            found = f"tensor {name} is in no file of {self._name}"
            raise ModelError(Problem("E-MODEL-016", found, "write fsdp: false", "training.fsdp"))
        try:
            tensor: Tensor = self._of[name].get_tensor(name)
        except SafetensorError as error:
            raise ModelError(broken_weights(f"a weights file of {self._name}", error)) from error
        if tuple(tensor.shape) != shape:
            found = f"{name} of {self._name} is {tuple(tensor.shape)} in the file and {shape} by config.json"
            raise ModelError(Problem("E-MODEL-009", found, "use the config.json that belongs to the weights", KEY))
        return tensor


def _load(
    blank: _Blank, files: _Files, device: torch.device, *, trained: bool, quantization: BitsAndBytesConfig | None
) -> None:
    """Give a parameter its values, whole."""
    values = files.read(blank.name, tuple(blank.like.shape)).to(device, blank.like.dtype)
    (module, _), *_ = blank.places
    if isinstance(blank.like, Params4bit) and quantization is not None:
        values, module.quant_state = quantize_4bit(
            values.contiguous(),
            blocksize=_BLOCK,
            compress_statistics=quantization.bnb_4bit_use_double_quant,
            quant_type=quantization.bnb_4bit_quant_type,
            quant_storage=blank.like.quant_storage,
        )
    blank.put(nn.Parameter(values, requires_grad=trained))
