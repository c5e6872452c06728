"""Weights into memory: frozen ones in their storage format, trainable ones in float32."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig

from luthier.config.plan import Plan
from luthier.errors import ModelError, Problem
from luthier.events.printable import one_line
from luthier.machine.memory import is_out_of_memory, take_what_is_used
from luthier.model import attention
from luthier.model.adapter import add_adapter
from luthier.model.forward import (
    DTYPES,
    LEAN,
    as_one_pass,
    autocast,
    decoder_of,
    inference,
    lean_of,
    own_token_losses,
    token_losses,
    unwrap,
)
from luthier.model.head import BY_LOGITS
from luthier.model.hub import KEY, broken_weights, explain_failure
from luthier.model.kernels.choose import candidates
from luthier.model.lean.decoder import LeanDecoder
from luthier.model.lean.fp8 import KEY as FP8_KEY
from luthier.model.lean.fp8 import to_fp8
from luthier.model.lean.graphs import CudaRecorder
from luthier.model.lean.pieces import PLAIN, Pieces
from luthier.model.lean.proof import probe_of, prove_lean, prove_update
from luthier.model.recording import forget_recordings, recording_failed
from luthier.model.sharded import load_sharded
from luthier.model.unpacking import unpack_rightly

_LONGEST_REASON = 300
HEADS_ROUNDING = {torch.bfloat16: 0.05, torch.float16: 0.01}
"""Of the losses of some tokens, whose hidden states are the same."""
EXPERTS_ROUNDING = 0.02
"""Of the largest hidden state: several times bfloat16's rounding, far below what a visible document does."""


def load_model(plan: Plan, model_config: PretrainedConfig) -> nn.Module:
    """The model that the plan describes, ready to train on its device.

    LoRA: the base is frozen and in `model.dtype` (or 4 bits), the adapter float32. Full fine-tuning: all weights
    float32, computed in `model.dtype` under autocast. A model that is sharded over ranks holds this rank's part, and
    `prove_packing` is left to the caller: all ranks have to come to it together.

    Raises:
        ModelError: E-MODEL-008..011, E-MODEL-014..016.
    """
    section = plan.config.model
    lora = plan.config.training.finetuning_type == "lora"
    dtype = DTYPES[section.dtype] if lora else torch.float32
    device = torch.device(plan.machine.device)
    if plan.machine.device == "cuda":
        take_what_is_used()
    if plan.sharded:
        model = load_sharded(plan, model_config, dtype, _quantization(plan, dtype))
    elif section.from_scratch:
        model = AutoModelForCausalLM.from_config(
            model_config, dtype=dtype, trust_remote_code=section.trust_remote_code
        ).to(device)
    else:
        model = _load_weights(plan, model_config, dtype, device)
    model = attention.with_capped_scores(model)
    _forget_lengths(model)
    if lora and not plan.sharded:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model = add_adapter(model, plan.config.lora, revision=section.revision)
        if plan.config.quantization.base_precision == "fp8":
            to_fp8(unwrap(model))
    if plan.packed:
        unwrap(model).set_attn_implementation(attention.NAME)
    if not plan.sharded:
        prove_packing(model, plan)
        _try_head(model, plan)
    model.train()
    if plan.lean:
        _take_lean_path(model, plan, dtype)
    use_passes(model, plan)
    return model


def _forget_lengths(model: nn.Module) -> None:
    """Let angles that are scaled dynamically depend on the rows of a pass alone.

    transformers keeps those of the longest row so far: a run that goes on after a stop would have others.
    """
    for module in model.modules():
        if getattr(module, "rope_type", None) == "dynamic":
            module.register_forward_pre_hook(_as_it_began)


def _as_it_began(rotation: Any, _: Any) -> None:
    rotation.max_seq_len_cached, rotation.inv_freq = rotation.original_max_seq_len, rotation.original_inv_freq


def _try_head(model: nn.Module, plan: Plan) -> None:
    """Leave logits to the model's own forward pass where they are not the product that its parts promise.

    No config says what code from a model's repository, or a version to come, does to them.
    """
    probe = probe_of(next(model.parameters()).device)
    if not plan.packed:
        del probe.inputs["document_offsets"], probe.inputs["cu_seq_lens"]
    with inference(model), autocast(plan):
        found, wanted = (losses(model, probe).float() for losses in (token_losses, own_token_losses))
    if not (found - wanted).norm() <= HEADS_ROUNDING.get(DTYPES[plan.config.model.dtype], 1e-3) * wanted.norm():
        setattr(unwrap(model), BY_LOGITS, True)


def use_passes(model: nn.Module, plan: Plan) -> None:
    """Let the model keep and compute again what the plan says, from the next pass on."""
    lean = lean_of(model)
    if lean is not None:
        lean.checkpointed_layers = plan.checkpointed_layers
        forget_recordings(model)
        if not plan.unpack_once:
            lean.unpack_at_each_use()
    elif plan.checkpointed_layers:
        causal_lm = unwrap(model)
        # transformers 5.23 renamed it; the older name is what 5.17 has
        enable = getattr(causal_lm, "activation_checkpointing_enable", None) or causal_lm.gradient_checkpointing_enable
        enable({"use_reentrant": False})


def what_failed(model: nn.Module, plan: Plan) -> Iterator[tuple[str, str]]:
    """What was wanted, tried, and does not work on this device or with this model, each with the line that ends it."""
    lean = lean_of(model)
    if lean is None:
        if plan.config.training.lean_path:
            text = "the lean path does not give this model's numbers up to rounding; its own layers train (E-MODEL-014)"
            yield text, "training.lean_path: false"
        return
    if lean.refused:
        text = f"Luthier's kernels do not work here, plain torch takes their place: {lean.refused}"
        yield text, "training.kernels: false"
    yield from recording_failed(model)


def _take_lean_path(model: nn.Module, plan: Plan, dtype: torch.dtype) -> None:
    """Hang a proven `LeanDecoder` onto the model; `luthier.model.forward.summed_loss` finds it there.

    Kernels that do not run here, or do not give the model's numbers, make way for plain torch, and the decoder keeps
    the reason. When the proof fails with that too and nobody asked for the lean path by name, the model's own layers
    train.
    """
    *kernels, plain = candidates(torch.device(plan.machine.device), plan.config.training.kernels)
    refused = ""
    for pieces in kernels:
        try:
            setattr(model, LEAN, _proven(model, plan, dtype, pieces))
            return
        except Exception as error:  # Triton compiles at first use, and that fails in many ways
            if is_out_of_memory(error):
                raise
            refused = _reason(error)
    try:
        lean = _proven(model, plan, dtype, plain)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if plan.config.quantization.base_precision == "fp8":  # the model's own layers would take hours over it
            problem = Problem("E-MODEL-015", _reason(error), "write base_precision: default", FP8_KEY)
            raise ModelError(problem) from error
        if isinstance(error, ModelError) and plan.value("training.lean_path").how:  # `auto` became true
            return
        raise
    lean.refused = refused
    setattr(model, LEAN, lean)


def _reason(error: Exception) -> str:
    found = error.problems[0].found if isinstance(error, ModelError) else str(error).strip() or repr(error)
    return one_line(found)[:_LONGEST_REASON]


def _proven(model: nn.Module, plan: Plan, dtype: torch.dtype, pieces: Pieces) -> LeanDecoder:
    training = plan.config.training
    records = training.cuda_graphs and plan.machine.device == "cuda" and pieces is not PLAIN
    # what tokens of a pair count is known after the forward pass, so a whole pass is no one function of its batch
    recorder = CudaRecorder() if records and not plan.pairs else None
    lean = LeanDecoder(unwrap(model), dtype, keep_unpacked=plan.unpack_once, pieces=pieces, recorder=recorder)
    with autocast(plan):
        prove_lean(model, lean, dtype)
    if pieces.adamw is not None:
        prove_update(pieces.adamw, next(model.parameters()).device)
    return lean


def _load_weights(plan: Plan, model_config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> Any:
    """`from_pretrained`, safetensors only, with its failures named."""
    section = plan.config.model
    name = section.model_name_or_path
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name,
            config=model_config,
            revision=section.revision,
            trust_remote_code=section.trust_remote_code,
            use_safetensors=True,
            dtype=dtype,
            device_map={"": device},
            quantization_config=_quantization(plan, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
        )
    except SafetensorError as error:
        raise ModelError(broken_weights(f"a weights file of {name}", error)) from error
    except Exception as error:  # generation_config.json is read too, and each wrong thing fails in its own way
        if is_out_of_memory(error):
            raise
        raise ModelError(explain_failure(name, error)) from error
    if missing := sorted(info["missing_keys"]):
        found = f"{len(missing)} tensors of {name} are missing, for example {missing[0]}"
        raise ModelError(Problem("E-MODEL-009", found, "fetch the model again", KEY))
    if mismatched := sorted(info["mismatched_keys"]):
        tensor, in_file, in_model = mismatched[0]
        found = f"{tensor} of {name} is {tuple(in_file)} in the file and {tuple(in_model)} by config.json"
        raise ModelError(Problem("E-MODEL-009", found, "use the config.json that belongs to the weights", KEY))
    return model


def _quantization(plan: Plan, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How bitsandbytes stores the frozen linear layers; computing happens in `dtype`."""
    section = plan.config.quantization
    if not section.load_in_4bit:
        return None
    unpack_rightly()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=section.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=section.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype if plan.sharded else torch.uint8,  # FSDP shards numbers that can have a gradient
    )


def prove_packing(model: nn.Module, plan: Plan) -> None:
    """`prove_isolation`, where examples are packed.

    Raises:
        ModelError: E-MODEL-011.
    """
    if plan.packed:
        with autocast(plan):
            prove_isolation(model, plan.config.data.max_seq_length)


def prove_isolation(model: nn.Module, longest: int = sys.maxsize) -> None:
    """Change the first of two packed documents and require that the second one's hidden states do not move by a bit.

    Mixtures of experts may move by a rounding error. Masks that the model asks for are looked at, too.

    Args:
        model: With the attention of packed documents.
        longest: Tokens of the longest document that will come.

    Raises:
        ModelError: E-MODEL-011 when they move, or when the model's attention needs what the packed form lacks.
    """
    causal_lm = unwrap(model)
    device = next(causal_lm.parameters()).device
    first, second = [1, 2, 3, 4, 5, 6], [3, 1, 2, 4]
    offsets = (0, len(first), len(first) + len(second))
    positions = torch.tensor([[*range(len(first)), *range(len(second))]], device=device)
    hidden = []
    try:
        with inference(model), attention.asked_masks(longest):
            for start in (first, first[::-1]):
                inputs: dict[str, Any] = {
                    "input_ids": torch.tensor([start + second], device=device),
                    "position_ids": positions,
                    "use_cache": False,
                    "document_offsets": offsets,
                    "cu_seq_lens": torch.tensor(offsets, dtype=torch.int32, device=device),
                }
                output = as_one_pass(causal_lm, partial(decoder_of(causal_lm) or causal_lm, **inputs))
                hidden.append(output[0][0, len(first) :])
    except attention.UnsupportedAttentionError as error:
        problem = Problem("E-MODEL-011", f"its attention uses {error}", "write packing: false", "training.packing")
        raise ModelError(problem) from error
    moved = (hidden[0] - hidden[1]).abs().max()
    # An expert multiplies its tokens together, and the shape of a product decides the last bit of its numbers.
    experts = any(name.endswith(".experts") for name, _ in causal_lm.named_modules())
    if not moved <= (EXPERTS_ROUNDING * hidden[0].abs().max() if experts else 0):
        found = f"document 2 moves by {moved:.2g} when document 1 changes"
        raise ModelError(Problem("E-MODEL-011", found, "write packing: false", "training.packing"))
