r"""What training holds in memory, part by part, computed from shapes before a weight is loaded.

    a step     process + weights + adapter + gradients + optimizer + activations + head + workspace + holes
    loading    process + weights + the file that they are converted from

The fuller of the two is the forecast; a checkpoint is written a tensor at a time. T tokens of the largest pass, L
layers; numbers that a layer keeps for one token until its backward pass (D hidden, I intermediate, H S query width, K S
key width, H heads, r rank, A tokens of a row):

    lean path     2 D + H S + (H S + 2 K S) + 2 I + 7 r                     one by one in `luthier.model.lean.layer`
    LoRA, peft    4 D + 4 I + 2 H S + 2 K S + 7 r                           padded: 4 D + 4 I + 4 H S + 7 r + A + H
    + dropout     8 D + I + H S more: the input of each adapter once more, and its mask
    all weights   2 D more than LoRA without its 7 r: inputs of products are kept for dW
    + 16 bits     2 D more with LoRA: norms keep their input in float32. 7 D more with all weights: what goes from layer
                  to layer stays in float32, and each product keeps its input in 16 bits; on a CPU H S + K S besides,
                  rotated in float32

Those through transformers' and peft's own layers were counted with `torch.autograd.graph.saved_tensors_hooks`, which
tests/model/test_memory.py repeats; there autocast also keeps what is trained, in 16 bits, until the backward pass. A
checkpointed layer keeps D. Off the CPU packed attention keeps a sum for each head (H).

On a CPU memory is the resident set of the process, so three things count that are no tensors. Weights in the file's own
format stay mapped: the file is resident, and 4-bit or stacked copies come on top. The interpreter and the libraries are
measured, not computed. And glibc gives tensors below 32 MiB back to its heap, not to the system; tensors of unequal
size leave holes there which larger ones cannot fill. How large these are was measured (`_HOLES`, as a share of what all
layers would keep); larger tensors leave none.

On CUDA it is what the allocator has handed out (`max_memory_allocated`): no process, no file, no holes. Logits become
their own gradient in the lean path's kernels, so that a chunk of them is there once. The pool of recorded passes lies
beside it. There the same formulas are not measured yet.

Not covered: heads that do more than one product, mixtures of experts, several devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from transformers import PretrainedConfig

from luthier.config.lean import computes_in, packs
from luthier.config.plan import MachineFacts, Memory, ModelFacts, Part, Plan
from luthier.config.schema import Config
from luthier.machine import GIB
from luthier.model.head import block_rows, chunk_rows
from luthier.model.lean.gradients import MOST_RANKS

_MIB = 2**20
_HOLES = {"lean": 0.25, "full": 0.27, "lora": 0.85, "padded": 1.25}
"""Freed memory that the heap keeps and cannot use, as a share of what all layers keep."""
_LARGEST_IN_HEAP = 32 * _MIB
"""glibc maps larger tensors one by one, whatever it learns (`DEFAULT_MMAP_THRESHOLD_MAX`)."""
_WORKSPACE = {"cpu": 30 * _MIB, "cuda": 32 * _MIB, "mps": 0}
"""CPU: code and buffers of the libraries on first use (measured). CUDA: cuBLAS's workspace (its documentation)."""
_CODE_IN_16_BITS = 350 * _MIB
"""Of oneDNN, for the sizes of products that come: 0.30 GiB more than in float32 were measured on a model of 5.8 million
parameters after 200 steps, 0.45 GiB on one of 41.6 million."""
_PADDED = 1.1
"""Tokens of a bucket of attention beside those of its documents (`luthier.model.bucketed`)."""


OF_TOKENS = ("activations", "working set", "holes")
"""Parts that grow with the tokens of a pass: they are a prediction, what else there is is known to the byte."""


@dataclass(frozen=True)
class _Shape:
    """Of a decoder layer; `queries` and `keys` are the widths of all heads together."""

    hidden: int
    intermediate: int
    queries: int
    keys: int
    heads: int


@dataclass(frozen=True)
class Footprint:
    """Bytes that training holds; with `fsdp` on one of the ranks.

    Attributes:
        frozen: Weights that are not trained, in their storage.
        mapped: The model's file, as far as it stays resident beside them.
        trained: What is trained, float32: the adapter, or all weights.
        gradients, moments: Of what is trained.
        added: Gradients of a pass beside those of earlier passes, to which they are added (lean path).
        copied: What is trained once more in the compute format: autocast's copies, until the backward pass; on the
            lean path adapters side by side, and what products write their gradients to.
        stacked: What the lean path lays side by side, as far as the file stays mapped besides.
        unpacked: The 4-bit weights in the compute format, or the 8-bit ones transposed, if they are kept so.
        unpacking: One layer's weights of these, for which the lean path has room where they are not kept so.
        kept: One layer's numbers of one token, until its backward pass.
        checkpoint: What a checkpointed layer keeps of them.
        working: What one token holds while a layer is computed.
        holes: What the heap loses for a token of a layer, checkpointed or not.
        head: Logits of a chunk, their gradient, and the gradient of a trained head.
        gathered: With `fsdp` what is whole for a moment: two layers, embedding and head, with their gradients where
            they are trained.
    """

    frozen: int
    mapped: int
    trained: int
    gradients: int
    moments: int
    added: int
    copied: int
    stacked: int
    unpacked: int
    unpacking: int
    kept: int
    checkpoint: int
    working: int
    holes: int
    head: int
    gathered: int = 0

    @property
    def weights(self) -> int:
        """Weights, gradients and the optimizer's moments."""
        trained = self.trained + self.gradients + self.added + self.moments + self.copied
        return self.frozen + self.stacked + trained + self.gathered

    def token(self, layers: int, checkpointed: int) -> int:
        """Bytes of one token in a pass."""
        kept = (layers - checkpointed) * self.kept + checkpointed * self.checkpoint
        return kept + self.working + layers * self.holes + (self.kept if checkpointed else 0)


def footprint(
    config: Config,
    model_config: PretrainedConfig,
    model: ModelFacts,
    machine: MachineFacts,
    *,
    lean: bool,
    row_tokens: int = 128,
    pass_tokens: int | None = None,
) -> Footprint:
    """Bytes of each part of training.

    Args:
        config: The user's config; may hold ``auto``.
        model_config: config.json of the model.
        model: Counts of its parameters.
        machine: Its device.
        lean: Whether the run takes the lean path.
        row_tokens: Tokens of a usual row: padded attention keeps its mask.
        pass_tokens: Tokens of a pass, if it is decided: a few need no whole chunk of logits, and very many make tensors
            that leave no holes.
    """
    text = model_config.get_text_config()
    number = 4 if computes_in(config, machine) == "float32" else 2
    shape, on_cpu = _shape(model_config, model), machine.device == "cpu"
    in_place = lean and machine.device == "cuda" and config.training.kernels
    hidden, intermediate, layers = shape.hidden, shape.intermediate, model.layers
    full, packed = config.training.finetuning_type == "full", packs(config, model)
    ends = (1 if getattr(text, "tie_word_embeddings", False) else 2) * model.vocab_size * hidden
    body, trainable = max(0, model.parameters - ends), model.trainable_parameters or 0
    parts = machine.world_size if config.training.fsdp else 1
    wide = full and parts == 1  # what goes from layer to layer is float32
    working = 2 * (hidden + intermediate)
    if lean:
        layer = 2 * hidden + 2 * shape.queries + 2 * shape.keys + 2 * intermediate + 7 * config.lora.r
        # gate|up, its gradient and their product
        working = 6 * hidden + 6 * intermediate + 2 * (shape.queries + 2 * shape.keys)
        if on_cpu:  # of attention: queries, keys, their gradients and that of the output, gathered, most in float32
            gathered = shape.queries * (8 + number) + shape.keys * 16
            working = max(working, 4 * hidden + 4 * (shape.queries + shape.keys) + int(_PADDED * gathered) // number)
        copied = (2 * trainable + layers * _beside(config, shape, joint=in_place)) * number
    else:
        layer = _kept(config, shape, row_tokens, packed=packed, on_cpu=on_cpu)
        rotated = shape.queries + shape.keys if on_cpu and packed else 0  # float32, where their angles are
        layer += 0 if number == 4 else 7 * hidden + rotated if wide else 2 * hidden
        copied = (body if full else trainable) * 2 if number == 2 and parts == 1 else 0
    kind = "lean" if lean else "padded" if not packed else "full" if full else "lora"
    # sharded runs have the heap give everything back (`luthier.machine.heap`)
    in_heap = on_cpu and parts == 1 and (pass_tokens or 0) * intermediate * number < _LARGEST_IN_HEAP
    packed_weights = _is_packed(config)
    mapped = on_cpu and not config.model.from_scratch and _file_bytes(model_config) == number
    stored = 0 if full else _stored(config, body, ends, number)
    unpacked = body * (1 if config.quantization.base_precision == "fp8" else number)
    stacks = layers * hidden * (shape.queries + 2 * shape.keys + 2 * intermediate)
    return Footprint(
        frozen=stored // parts,
        mapped=body * number if mapped and packed_weights and parts == 1 else 0,
        trained=trainable * 4 // parts,
        gradients=trainable * 4 // parts,
        moments=trainable * (2 if config.training.optim == "paged_adamw_8bit" else 8) // parts,
        added=trainable * 4 if lean else 0,
        copied=copied,
        stacked=stacks * number if lean and mapped and not packed_weights else 0,
        unpacked=unpacked,
        unpacking=unpacked // max(1, layers) if lean and holds_copies(config, machine) else 0,
        kept=layer * number,
        checkpoint=hidden * (4 if wide else number),
        working=working * number + 4 * hidden * number,
        holes=int(_HOLES[kind] * layer * number) if in_heap else 0,
        head=_head(machine.device, model.vocab_size, hidden, number, pass_tokens, in_place=in_place, full=full),
        gathered=_gathered(stored, body, ends, number, layers, full=full) if parts > 1 else 0,
    )


def forecast(
    plan: Plan,
    model_config: PretrainedConfig,
    *,
    process_gib: float,
    free_gib: float,
    tokens: int,
    passes: int,
    row_tokens: int,
) -> Memory:
    """What a run will hold at its fullest moment.

    Args:
        plan: Resolved, with model and rows.
        model_config: config.json of the model.
        process_gib: Resident set of this process before the model is loaded; not counted on CUDA.
        free_gib: Free memory at the same moment.
        tokens: Computed in the largest pass, padding included.
        passes: Passes of a step.
        row_tokens: Tokens of a usual row.
    """
    assert plan.model is not None
    on_cpu = plan.machine.device == "cpu"
    lean, layers = plan.lean, plan.model.layers
    sizes = footprint(
        plan.config, model_config, plan.model, plan.machine, lean=lean, row_tokens=row_tokens, pass_tokens=tokens
    )
    sizes = replace(sizes, unpacking=0) if plan.unpack_once else replace(sizes, unpacked=0)
    layers_kept = (layers - plan.checkpointed_layers) * sizes.kept + plan.checkpointed_layers * sizes.checkpoint
    again = sizes.kept if plan.checkpointed_layers else 0
    # the head's chunk is there when all layers' numbers are; a layer's own working set comes after it
    peak = max(sizes.head, tokens * (sizes.working + again))
    gradients = sizes.gradients + sizes.added * (passes > 1)
    held = _held(plan, sizes, process_gib if on_cpu else 0.0)
    copied = {"trained copies": (float(sizes.copied), "what is trained, in the format that is computed in")}
    activations = f"{tokens:,} tokens x {layers} layers x {sizes.kept:,} bytes"
    if plan.checkpointed_layers:
        activations += f", {plan.checkpointed_layers} of them keep {sizes.checkpoint:,}"
    workspace = float(_WORKSPACE[plan.machine.device])
    if plan.machine.device == "cpu" and plan.config.model.dtype != "float32":
        workspace += _CODE_IN_16_BITS
    holes = float(tokens * layers * sizes.holes)
    step = {
        **held,
        **copied,
        "gradients": (float(gradients), "4 bytes each" + ", once more those of a pass" * (gradients > sizes.gradients)),
        "activations": (float(tokens * layers_kept), activations),
        "working set": (float(peak), "logits of a chunk, or the layer that is computed"),
        "workspace": (workspace, "of the libraries"),
        "holes": (holes, "freed memory that the heap keeps"),
    }
    file = float(plan.model.parameters * _file_bytes(model_config)) if on_cpu else 0.0
    converted = {key: held[key] for key in ("process", "weights", "adapter", "gathered")}
    if plan.config.quantization.base_precision == "fp8" and not sizes.mapped:
        number = 4 if plan.config.model.dtype == "float32" else 2
        converted["weights"] = (float(plan.model.parameters * number), f"{plan.config.model.dtype}, to be rounded")
    loading = {**converted, "file": (file if not plan.config.model.from_scratch else 0.0, "mapped while it is read")}
    moments = {"a step": step, "loading": loading}
    moment = max(moments, key=lambda name: sum(size for size, _ in moments[name].values()))
    parts = tuple(Part(name, size / GIB, how) for name, (size, how) in moments[moment].items() if size)
    room = room_gib(plan, free_gib, process_gib)
    return Memory(parts, moment, tokens, room, asked=room == plan.config.training.memory_gib)


def room_gib(plan: Plan, free_gib: float, process_gib: float) -> float:
    """What there is for all that a forecast counts: what is free, or `training.memory_gib`, where that is less."""
    asked, there = plan.config.training.memory_gib, free_gib + (process_gib if plan.machine.device == "cpu" else 0.0)
    return there if asked == "auto" else min(asked, there)


def _held(plan: Plan, sizes: Footprint, process_gib: float) -> dict[str, tuple[float, str]]:
    """What is there from loading to the end: name -> bytes, and what it is."""
    assert plan.model is not None
    shared = f", over {plan.machine.world_size} ranks" if plan.sharded else ""
    return {
        "process": (process_gib * GIB, "interpreter and libraries, measured"),
        "weights": (float(sizes.frozen or sizes.trained), _stored_as(plan)),
        "file": (float(sizes.mapped), "the model's file, mapped: the system takes it back when memory is short"),
        "copies": (float(sizes.stacked + sizes.unpacked), f"frozen weights, {_copied(plan)}"),
        "unpacking": (float(sizes.unpacking), f"room for one layer's frozen weights, {_turned(plan)} at each use"),
        "adapter": (sizes.trained * float(sizes.frozen > 0), f"{plan.model.trainable_parameters:,} x 4 bytes{shared}"),
        "optimizer": (float(sizes.moments), f"two moments of each trained number{shared}"),
        "gathered": (float(sizes.gathered), "two layers, embedding and head, whole while they are used"),
    }


def _shape(model_config: PretrainedConfig, model: ModelFacts) -> _Shape:
    text = model_config.get_text_config()
    heads = int(text.num_attention_heads)
    size = int(getattr(text, "head_dim", None) or model.hidden_size // heads)
    return _Shape(
        hidden=model.hidden_size,
        intermediate=int(getattr(text, "intermediate_size", None) or 4 * model.hidden_size),
        queries=size * heads,
        keys=size * int(getattr(text, "num_key_value_heads", None) or heads),
        heads=heads,
    )


def _kept(config: Config, shape: _Shape, row_tokens: int, *, packed: bool, on_cpu: bool) -> int:
    """Numbers that a layer of transformers, with peft's adapters or without, keeps for one token."""
    hidden, queries = shape.hidden, shape.queries
    kept = 4.0 * hidden + 4 * shape.intermediate
    if packed:
        kept += 2 * queries + 2 * shape.keys + (0 if on_cpu else shape.heads)
    else:
        kept += 4 * queries + row_tokens + shape.heads
    if config.training.finetuning_type == "full":
        return int(kept + 2 * hidden)
    if config.lora.lora_dropout:
        kept += 8 * hidden + shape.intermediate + queries
    return int(kept + 7 * config.lora.r)


def _beside(config: Config, shape: _Shape, *, joint: bool) -> int:
    """Numbers of a layer's stacked B that belong to no adapter: B of one member lies beside zeros for the others.

    With `joint` their gradient is one product, too: from the first adapted member to the last.
    """
    wanted, rank, beside = config.lora.target_modules, config.lora.r, 0
    for stack in (
        {"q_proj": shape.queries, "k_proj": shape.keys, "v_proj": shape.keys},
        {"gate_proj": shape.intermediate, "up_proj": shape.intermediate},
    ):
        places = [place for place, name in enumerate(stack) if isinstance(wanted, str) or name in wanted]
        widths, ranks = list(stack.values()), rank * len(places)
        own = rank * sum(widths[place] for place in places)
        beside += ranks * sum(widths) - own
        if joint and 0 < ranks <= MOST_RANKS:
            beside += ranks * sum(widths[places[0] : places[-1] + 1]) - own
    return beside


def holds_copies(config: Config, machine: MachineFacts) -> bool:
    """Whether the lean path can hold frozen weights a second time: 4 bits unpacked, 8-bit floats transposed on CUDA."""
    in_8_bits = config.quantization.base_precision == "fp8"
    return config.quantization.load_in_4bit or (in_8_bits and machine.device == "cuda")


def _copied(plan: Plan) -> str:
    """What is done to frozen weights that are not kept as they are."""
    if plan.config.quantization.load_in_4bit:
        return "stacked and unpacked for the lean path: faster, and more than load_in_4bit saves"
    return f"stacked and {turned} for the lean path" if (turned := _turned(plan)) else "stacked for the lean path"


def _turned(plan: Plan) -> str:
    """What is done to the numbers of frozen weights before they are multiplied with; empty where nothing is."""
    in_8_bits = plan.config.quantization.base_precision == "fp8"
    return "unpacked" if plan.config.quantization.load_in_4bit else "transposed" * in_8_bits


def _is_packed(config: Config) -> bool:
    return config.quantization.load_in_4bit or config.quantization.base_precision == "fp8"


def _stored(config: Config, body: int, ends: int, number: int) -> int:
    """Bytes of the frozen weights."""
    if config.quantization.base_precision == "fp8":
        return body + ends * number
    if not config.quantization.load_in_4bit:
        return (body + ends) * number
    # 4 bits, and a constant for each 64: 8 bits of it with one for 256 of those, or 32
    constant = 1 / 64 + 4 / (64 * 256) if config.quantization.bnb_4bit_use_double_quant else 4 / 64
    return int(ends * number + body * (0.5 + constant))


def _gathered(stored: int, body: int, ends: int, number: int, layers: int, *, full: bool) -> int:
    """Bytes of weights, and gradients where all are trained, that are whole on each rank while they are used."""
    two_layers = 2 / max(1, layers)
    if full:
        return int((body * two_layers + ends) * 2 * number)
    return int((stored - ends * number) * two_layers + ends * number)


def _file_bytes(model_config: PretrainedConfig) -> int:
    """Bytes of a number in the model's file."""
    return 4 if str(getattr(model_config, "dtype", None) or "float32").endswith("float32") else 2


def _stored_as(plan: Plan) -> str:
    assert plan.model is not None
    shared = f", over {plan.machine.world_size} ranks" if plan.sharded else ""
    if plan.config.training.finetuning_type == "full":
        return f"{plan.model.parameters:,} x 4 bytes{shared}"
    bits = {True: "4 bits each", False: "8 bits each"}[plan.config.quantization.load_in_4bit]
    bits = f"{bits}, embedding and head in " if _is_packed(plan.config) else ""
    return f"{plan.model.parameters:,} numbers, {bits}{plan.config.model.dtype}{shared}"


def _head(
    device: str, vocabulary: int, hidden: int, number: int, tokens: int | None, *, in_place: bool, full: bool
) -> int:
    """Logits of a chunk, which become their gradient; of a block also in float32, and its softmax. See `model.head`.

    Where a kernel does that `in_place`, there is no block.
    """
    rows = chunk_rows(device, vocabulary, number if in_place else 4)
    rows = min(rows, tokens or rows)
    block = 0 if in_place else min(rows, block_rows(device, vocabulary, 4))
    logits = vocabulary * (rows * number + block * 8)
    return logits + (vocabulary * hidden * (4 + number) if full else 0)
