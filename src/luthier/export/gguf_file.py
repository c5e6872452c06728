"""A merged model as one GGUF file, the format of llama.cpp, Ollama and LM Studio.

    keys       sizes, rotary positions, tokenizer, chat template
    tensors    matrices in --quant (f16, bf16, or q8_0: 32 weights share a scale); vectors and factors in float32

llama.cpp rotates neighbouring pairs of a head's dimensions in its `llama` layout, transformers the two halves, so rows
of q and k change places there (qwen2, qwen3 keep transformers' order):

    transformers  [a0 a1 ... | b0 b1 ...]      llama.cpp  [a0 b0 a1 b1 ...]

Llama 3 stretches slow rotations; llama.cpp reads by how much from the tensor `rope_freqs` (a divisor for each pair).

Source: the keys of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the scaling of Llama 3 as in
transformers.modeling_rope_utils.

Not covered: mixtures of experts, models of images, split files, quantization below 8 bits (llama.cpp's llama-quantize).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from gguf.quants import quant_shape_to_byte_shape, quantize
from torch import nn

from luthier.errors import ModelError, Problem, RefusedError
from luthier.export.gguf_vocab import Vocabulary

Quant = Literal["f16", "bf16", "q8_0"]
TYPES = {
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
FILE_TYPES = {
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_ROPE = {"default", "linear", "llama3"}


@dataclass(frozen=True)
class _Tensor:
    name: str
    data: torch.Tensor
    type: gguf.GGMLQuantizationType

    @property
    def bytes_shape(self) -> tuple[int, ...]:
        """Shape of the stored array: that of the weights, or of bytes where numpy has no such number."""
        if self.type in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
            return tuple(self.data.shape)
        return quant_shape_to_byte_shape(tuple(self.data.shape), self.type)

    @property
    def dtype(self) -> np.dtype[Any]:
        whole = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}
        return np.dtype(whole.get(self.type, np.uint8))

    @property
    def size(self) -> int:
        return math.prod(self.bytes_shape) * self.dtype.itemsize

    def array(self) -> np.ndarray[Any, Any]:
        """The stored numbers.

        Raises:
            ModelError: E-EXPORT-009.
        """
        full = self.data.detach().to("cpu", torch.float32).numpy()
        with np.errstate(over="ignore"):
            stored = quantize(full, self.type)
        if self.type == gguf.GGMLQuantizationType.F16 and not np.isfinite(stored).all():
            found = f"{self.name} has numbers that float16 cannot hold"
            raise ModelError(Problem("E-EXPORT-009", found, "--quant bf16"))
        return stored


def check_architecture(config: Any) -> None:
    """Whether this model's layout in GGUF is known exactly.

    Args:
        config: Of transformers.

    Raises:
        RefusedError: E-EXPORT-003.
    """
    rope = config.rope_parameters if hasattr(config, "rope_parameters") else {}
    wrong = ""
    if config.model_type not in ARCHITECTURES:
        wrong = f"its architecture is {config.model_type}; known are {', '.join(ARCHITECTURES)}"
    elif rope.get("rope_type", "default") not in _ROPE:
        wrong = f"its rotary positions are of the kind {rope['rope_type']}"
    elif rope.get("partial_rotary_factor", 1.0) != 1.0:
        wrong = "only a part of each head is rotated"
    elif config.hidden_act != "silu":
        wrong = f"its activation is {config.hidden_act}"
    elif config.model_type.startswith("qwen") and "sliding_attention" in (config.layer_types or []):
        wrong = "some of its layers see a window only"
    if wrong:
        raise RefusedError(
            Problem("E-EXPORT-003", wrong, "luthier merge RUN, for programs that read transformers' format")
        )


def write_gguf(model: nn.Module, vocabulary: Vocabulary, quant: Quant, path: Path, name: str) -> None:
    """Write the file.

    Args:
        model: Merged; one of `ARCHITECTURES`.
        vocabulary: Its tokenizer.
        quant: Number format of matrices.
        path: Of the file.
        name: That programs show.

    Raises:
        ModelError: E-EXPORT-009.
        RefusedError: E-EXPORT-003 when it has a tensor that this layout has not.
    """
    config: Any = model.config
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.model_type]])
    try:
        _keys(writer, config, quant, name)
        _tokenizer(writer, vocabulary)
        tensors = list(_tensors(model, config, quant))
        for tensor in tensors:
            writer.add_tensor_info(tensor.name, tensor.bytes_shape, tensor.dtype, tensor.size, raw_dtype=tensor.type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:  # one at a time: the model is in memory once
            writer.write_tensor_data(tensor.array())
    finally:
        writer.close()


def context_length(config: Any) -> int:
    """The longest text; where a model sees a window only, as far as that makes no difference."""
    window = getattr(config, "sliding_window", None)
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))


def head_size(config: Any) -> int:
    """Numbers of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _keys(writer: gguf.GGUFWriter, config: Any, quant: Quant, name: str) -> None:
    rope, head = config.rope_parameters, head_size(config)
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[quant])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def _tokenizer(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    for name, token in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(token)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(vocabulary.adds_eos)
    writer.add_chat_template(vocabulary.template)


def _tensors(model: nn.Module, config: Any, quant: Quant) -> Iterator[_Tensor]:
    """All of them under llama.cpp's names, in its order of rows."""
    architecture = ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for key, data in model.state_dict().items():
        if tied and key == "lm_head.weight":
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            fix = "luthier merge RUN, for programs that read transformers' format"
            raise RefusedError(Problem("E-EXPORT-003", f"GGUF has no place for {key}", fix))
        if architecture == gguf.MODEL_ARCH.LLAMA and ".self_attn.q_proj." in key:
            data = interleaved(data, config.num_attention_heads)
        if architecture == gguf.MODEL_ARCH.LLAMA and ".self_attn.k_proj." in key:
            data = interleaved(data, config.num_key_value_heads)
        yield _Tensor(name, data, _stored_as(data, quant))
    if config.rope_parameters.get("rope_type") == "llama3":
        factors = llama3_factors(config.rope_parameters, head_size(config), config.max_position_embeddings)
        yield _Tensor("rope_freqs.weight", factors, gguf.GGMLQuantizationType.F32)


def _stored_as(data: torch.Tensor, quant: Quant) -> gguf.GGMLQuantizationType:
    if data.ndim == 1:
        return gguf.GGMLQuantizationType.F32
    block = gguf.GGML_QUANT_SIZES[TYPES[quant]][0]
    return TYPES[quant] if data.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def interleaved(data: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q or k (or of a bias) as neighbouring pairs: [heads, 2, pairs, ...] -> [heads, pairs, 2, ...]."""
    return data.reshape(heads, 2, -1, *data.shape[1:]).transpose(1, 2).reshape(data.shape)


def llama3_factors(rope: dict[str, Any], head: int, longest: int) -> torch.Tensor:
    """By how much each rotation is slowed down, float32 [head / 2].

    1 for fast ones, `factor` for slow ones; between them a straight line in the frequency.
    """
    original = rope.get("original_max_position_embeddings") or longest
    frequency = float(rope["rope_theta"]) ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    turns = original * frequency / (2 * math.pi)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)
    slower: torch.Tensor = 1 / ((1 - share) / factor + share)
    return slower.to(torch.float32)
