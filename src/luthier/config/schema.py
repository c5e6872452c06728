"""What a user can ask for: every key of the YAML, with its type, range, default and reason.

Sections group the keys; the spelling is the ecosystem's (`transformers.TrainingArguments`, `peft.LoraConfig`,
`BitsAndBytesConfig`). The text under each field is its documentation: it becomes the JSON schema, `luthier explain KEY`
and the reference page. Nothing here looks at the machine or the data: ``auto`` is resolved in `luthier.config.resolve`.

Not covered: the combinations of keys that cannot work together (`luthier.config.rules`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]

DatasetFormat = Literal["auto", "alpaca", "sharegpt", "messages", "prompt-completion", "text", "preference"]
Objective = Literal["sft", "dpo"]
Schedule = Literal["cosine", "linear", "constant", "wsd"]
Optimizer = Literal["auto", "adamw_torch_fused", "adamw_torch", "paged_adamw_8bit"]
Reporter = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, documentation from the text under each field."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )


class ModelSection(Section):
    """The base model: whose weights are adapted."""

    model_name_or_path: str = "meta-llama/Llama-3.2-1B"
    """Hub id or local folder of the base model (safetensors). `luthier:quickstart/base` comes with the package."""
    revision: str | None = None
    """Branch, tag or commit of the model on the hub; a commit makes the run repeatable."""
    tokenizer_name_or_path: str | None = None
    """Tokenizer, when it does not lie beside the model."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model repository. Leave it off unless you have read that code."""
    from_scratch: bool = False
    """Start from random weights: the model folder holds only `config.json` and a tokenizer."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of frozen weights and activations. `auto`: bfloat16 where the device computes it, float16 on a CUDA
    card that does not (before Ampere), else float32. Trainable parameters are always kept in float32."""


class QuantizationSection(Section):
    """QLoRA's Q: how the frozen weights are stored."""

    load_in_4bit: bool = False
    """Store the frozen linear layers in 4 bits: a quarter of their memory in 16 bits. Embedding and head stay as they
    are, so a small model shrinks less as a whole. Where memory is free they are kept unpacked as well, which is faster
    and then more than 16 bits: the lines `weights` and `copies` of `luthier plan` say which."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """The 16 values a 4-bit weight can take. `nf4` places them where normally distributed weights are (Dettmers et al.
    2023)."""
    bnb_4bit_use_double_quant: bool = True
    """Quantize the quantization constants too: saves about 0.4 bits a weight at no measurable loss."""
    base_precision: Literal["default", "fp8"] = "default"
    """What frozen linear layers are multiplied in. `default`: model.dtype. `fp8`: 8-bit floats (e4m3), a scale for each
    row, what they are multiplied with included; adapters, head and embedding stay as they are. Coarser numbers; on the
    lean path only, and on GPUs of compute capability 8.9 or more (Ada, Hopper)."""


class LoraSection(Section):
    """The adapter: small trainable matrices beside frozen ones (Hu et al. 2021). Keys as in `peft.LoraConfig`."""

    r: Positive = 16
    """Rank: each adapted layer W gets B·A with A of shape (r, in) and B of shape (out, r). More rank, more capacity."""
    lora_alpha: Annotated[float, Field(gt=0)] = 32
    """Scale: the adapter is multiplied by lora_alpha / r. When you change r, keep it, or keep it at twice r (then
    larger ranks move more); change one thing at a time."""
    lora_dropout: Fraction = 0.0
    """Share of the adapter's inputs that are zeroed at random in training."""
    target_modules: str | list[str] = "all-linear"
    """Which layers get an adapter: `all-linear` (recommended; all but the head), a list of names, or a regex."""
    modules_to_save: list[str] = []
    """Layers trained in full and saved with the adapter, for example `lm_head` and `embed_tokens` after new tokens."""
    use_rslora: bool = False
    """Multiply the adapter by lora_alpha / sqrt(r) instead of lora_alpha / r (Kalajdzievski 2023), so that high ranks
    do not learn more slowly."""
    use_dora: bool = False
    """Learn direction and magnitude of each weight apart (Liu et al. 2024, who found it better most of all at low
    rank); slower."""
    init_lora_weights: Literal["default", "gaussian", "pissa"] = "default"
    """How A and B start. `default`: A random, B = 0, so step 0 is the base model. `pissa`: both at the strongest
    directions of W, which are taken out of W, so step 0 is the base model there, too."""


class DatasetSource(Section):
    """One source of rows."""

    path: str
    """Hub id (`owner/name`), or a local .json, .jsonl, .csv or .parquet file or a folder of them. Relative paths are
    relative to the project root (the folder `luthier` is started from)."""
    name: str | None = None
    """Configuration of a hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    split: str = "train"
    """Which split to train on; slices such as `train[:500]` work. A local file is all train; of a folder the names of
    the files tell the splits."""
    format: DatasetFormat = "auto"
    """Shape of a row. `auto` looks at the column names."""
    columns: dict[str, str] = {}
    """Renames columns to what the format expects: {expected: yours}, e.g. {instruction: text, output: code}."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often the rows of this source are drawn in an epoch: 2.0 twice, 0.5 a random half of them."""


class DataSection(Section):
    """The rows, how they become tokens, and which of them are held out."""

    datasets: Annotated[list[DatasetSource], Field(min_length=1)] = [
        DatasetSource(path="iamtarun/python_code_instructions_18k_alpaca")
    ]
    """The sources, mixed by their weights."""
    prompt_template: str = "auto"
    """`auto`: the tokenizer's own chat template if it has one, else Alpaca; for rows that are all final text, none: the
    model is then asked with a text as it is. Or `alpaca`, `chat`, or a path to a .jinja file."""
    max_seq_length: Annotated[int, Field(ge=8)] = 2048
    """Longest row in tokens. Memory grows with it; see `overlong_rows`."""
    overlong_rows: Literal["drop", "truncate", "split", "error"] = "drop"
    """Rows longer than max_seq_length: leave them out (counted and reported), cut the end (the model then never sees
    how they stop), cut plain text into parts of about equal length (questions with answers are left out), or refuse to
    train."""
    bad_rows: Literal["error", "drop"] = "error"
    """Rows that cannot be trained on (an empty answer, a missing field, roles in a wrong order): refuse to train and
    name them, or leave them out, counted and named. A file that cannot be read is always an error."""
    completion_only_loss: bool = True
    """Learn the answers only. false: learn to write the prompts too."""
    val_set_size: Annotated[float, Field(ge=0)] = 0.05
    """Rows held out for evaluation: a share below 1, or a number of rows. 0: none."""
    eval_split: str | None = None
    """Use this split of the first dataset for evaluation, instead of val_set_size."""
    dataloader_num_workers: NonNegative = 2
    """Threads that pack the next micro-batches while the device computes. 0: pack in the loop."""
    cache_dir: str | None = None
    """Where tokenized rows are kept. Default: `luthier` in the user's cache folder."""


class TrainingSection(Section):
    """The optimizer step: how many examples, how large a move, for how long."""

    output_dir: str = "checkpoints"
    """Folder for everything that the run writes."""
    objective: Objective = "sft"
    """What is learned: `sft`, answers, token by token; or `dpo`, to prefer the chosen answer of a pair to the rejected
    one (direct preference optimization), for rows of the format `preference`. It usually follows a run with `sft`."""
    finetuning_type: Literal["lora", "full"] = "lora"
    """`lora` trains a small adapter; `full` trains every weight (much more memory)."""
    num_train_epochs: Annotated[float, Field(gt=0, le=1e6)] = 3.0
    """How often each row is seen. Steps are whole: rows that would fill a part of one at the end are left out."""
    max_steps: Positive | None = None
    """Stop after this many optimizer steps, whatever num_train_epochs says. Warm-up and decay are then made for this
    many: it is a short run of its own, not the beginning of the long one."""
    per_device_train_batch_size: Positive = 4
    """Times gradient_accumulation_steps: the examples of a step. The product decides what is learned. Alone, this key
    matters for memory and speed only with auto: false, see max_tokens_per_micro_batch."""
    gradient_accumulation_steps: Positive = 4
    """How many such batches make one optimizer step. Only the product matters: Luthier packs the examples of a step
    into as few passes as memory allows, with the same gradient."""
    auto: bool = True
    """Let Luthier plan the passes of a step. false: exactly per_device_train_batch_size examples in each, padded and
    through peft's own layers, unless packing and lean_path say otherwise."""
    max_tokens_per_micro_batch: Positive | Literal["auto"] = "auto"
    """Tokens in one forward and backward pass. `auto` takes what fits in memory; lower it when memory runs out."""
    memory_gib: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """How much memory the run may hold, in GiB: its passes are planned as if there was no more. `auto`: what is free.
    Counted is what `luthier plan` forecasts: on a GPU what tensors hold, without the driver's part; on a CPU the whole
    process. Of several processes each may hold it."""
    packing: bool | Literal["auto"] = "auto"
    """Lay the examples of a step end to end instead of padding them, each blind to the others. `auto`: where the model
    can keep documents apart."""
    lean_path: bool | Literal["auto"] = "auto"
    """Compute adapted layers stacked, with a backward pass written out by hand: the same numbers, faster, in less
    memory. `auto`: where that is exact and has been measured (plain LoRA on Llama-like models, on a CPU or CUDA)."""
    kernels: bool = True
    """On the lean path, use Luthier's own kernels where they can run (CUDA with triton) and give the model's numbers;
    both is found out before the first step. false: plain torch."""
    cuda_graphs: bool = True
    """With kernels and in 16 bits, record whole passes and replay them, so that the GPU never waits for Python. For it
    batches are padded to few sizes, which changes rounding at most. false: launch each pass anew, as passes of pairs
    (`objective: dpo`) are."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Keep only each layer's input and compute the rest again in the backward pass: far less memory for one more
    forward pass, which is a third more time in full fine-tuning and up to a half with an adapter. `auto`: for as many
    layers as memory asks for, mostly none."""
    fsdp: bool = False
    """With several processes, shard weights, gradients and optimizer state over them (PyTorch's FSDP2): for models that
    do not fit one device. false: each process holds all of them, which is faster."""
    rehearsal: bool | Literal["auto"] = "auto"
    """Before step 1, run the largest step of these rows, an evaluation batch and a save, and forget them: what does
    not fit fails at once. `auto`: unless the run is so short that it would be more than a twentieth of it."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """How far one step moves a weight, at its peak: with AdamW by about this much, or by a few times as much after a
    sudden long gradient (max_grad_norm). Adapters: 1e-4 to 5e-4; all weights: 1e-5 to 5e-5; a tenth of either, or
    less, with `objective: dpo`. The loss jumps: a third of it; it hardly moves: three times as much."""
    lr_scheduler_type: Schedule = "cosine"
    """How the learning rate falls: `cosine`, `linear`, `constant`, or `wsd` (warm up, stay, then decay)."""
    min_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """Where the learning rate ends (cosine, linear and wsd)."""
    warmup_steps: NonNegative | None = None
    """Over how many steps the learning rate rises from 0 to its peak. AdamW's first averages are guesses, so the first
    steps are small ones."""
    warmup_ratio: Fraction = 0.0
    """Over which share of all steps the learning rate rises: 0.03 of 1,000 steps are 30. warmup_steps wins."""
    decay_ratio: Annotated[float, Field(gt=0, le=1)] = 0.2
    """`wsd` only: the share of all steps at the end in which the learning rate falls."""
    optim: Optimizer = "auto"
    """`auto`: fused AdamW. `paged_adamw_8bit` (CUDA) keeps the optimizer state in 8 bits, in pageable memory."""
    adam_beta1: Fraction = 0.9
    """How slowly AdamW's average of the gradient forgets: 0.9 remembers about 1 / (1 - 0.9) = 10 steps."""
    adam_beta2: Fraction = 0.999
    """How slowly its average of the squared gradient forgets: 0.999 remembers about 1,000 steps."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to what AdamW divides by, so that a weight whose gradients are all near 0 is not moved by noise."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Pulls trained weights towards zero, a little each step (not biases and norms). With LoRA these are A and B: the
    model is pulled towards its base."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients longer than this are shortened to it. 0: never."""
    bad_steps_limit: NonNegative = 3
    """Leave out up to this many steps in a row whose loss or gradient is not a number. 0: none."""
    after_bad_steps: Literal["stop", "rollback"] = "stop"
    """What to do after more than bad_steps_limit of them in a row: `stop` (resumable), or `rollback`, which goes back
    to the newest checkpoint with half the learning rate, twice at most."""
    loss_spikes: Literal["report", "skip"] = "report"
    """Steps whose loss, or whose gradient beyond max_grad_norm, is far above that of the last 64: name their rows, or
    leave them out as well."""
    hang_seconds: Annotated[float, Field(ge=0)] = 600
    """A step, evaluation or save that takes longer than this and than 20 usual ones writes the stacks of all threads to
    stacks.log. Of several processes, one for which the others wait for three times as long is given up on. 0: never."""
    seed: NonNegative = 42
    """Fixes the order of rows, the split, dropout and the start of the adapter."""


class DpoSection(Section):
    """Direct preference optimization (Rafailov et al. 2023), for `objective: dpo`; keys as in `trl.DPOConfig`."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the model is held to the one it began as. Low, it may go far for a better margin between chosen and
    rejected answers; high, it stays near. 0.1 is the paper's and the usual one; 0.01 to 0.5 is common."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """The share of pairs that are thought to be labelled the wrong way round (conservative DPO): above 0 no margin pays
    beyond what that share allows. 0: all pairs are trusted."""


class EvaluationSection(Section):
    """Looking at rows that are not trained on, and at what the model writes."""

    eval_steps: NonNegative | Share | Literal["epoch"] | None = None
    """Evaluate every this many steps, and at the end. Below 1: this share of all steps. `epoch`: after each epoch.
    0: never. Default: four times an epoch."""
    per_device_eval_batch_size: Positive | None = None
    """Examples in an evaluation pass. Default: per_device_train_batch_size."""
    load_best_model_at_end: bool = True
    """Put the weights with the lowest eval_loss into final_model, not the last ones."""
    early_stopping_patience: Positive | None = None
    """Stop after this many evaluations without a better eval_loss."""
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    """An eval_loss must be lower than the best by more than this to count as better."""
    sample_prompts: list[str] = []
    """Instructions that the model answers at the milestones, so that you see it learn."""
    sample_steps: list[NonNegative] = [0, 100, 1000, 3000]
    """The milestones, in steps. The last step is always one."""
    sample_max_new_tokens: Positive = 128
    """Longest answer."""


class CheckpointSection(Section):
    """What survives a crash."""

    save_steps: NonNegative | Share | Literal["epoch"] = 500
    """Write a resumable checkpoint every this many steps, and at the end. Below 1: this share of all steps. `epoch`:
    after each epoch. 0: only at the end, and with load_best_model_at_end after each evaluation that is the best,
    whatever save_minutes and save_first_step say."""
    save_minutes: Annotated[float, Field(ge=0)] = 15
    """Write a checkpoint also when the last one is this many minutes old. 0: never."""
    save_first_step: bool = True
    """Write a checkpoint after the first step, so that you see at once that saving works, and a run that is stopped
    early is not lost."""
    save_total_limit: Positive | None = 3
    """Keep this many checkpoints, the newest ones; the best one is kept besides. Two at least: one might be damaged."""
    resume_from_checkpoint: str | None = None
    """`auto`: go on from the newest whole checkpoint in output_dir, or start if there is none. Or a checkpoint's
    folder."""


class LoggingSection(Section):
    """What the run says of itself."""

    logging_steps: Positive | Share | Literal["epoch"] = 10
    """Write a log line every this many steps; its loss is the mean over them. Below 1: this share of all steps.
    `epoch`: after each epoch."""
    logging_dir: str | None = None
    """TensorBoard folder. Default: `logs` in output_dir."""
    report_to: list[Reporter] = ["tensorboard"]
    """Where metrics go besides the terminal and events.jsonl. Nothing leaves this machine unless you name it here."""
    run_name: str | None = None
    """Name of the run in trackers, log and report. Default: that of the output folder; where that has its default, too,
    trackers choose a name."""
    project: str | None = None
    """Project of the run in W&B and trackio, experiment in MLflow. Default: what WANDB_PROJECT, TRACKIO_PROJECT and
    MLFLOW_EXPERIMENT_NAME say; without them `luthier`, and MLflow's own."""
    histogram_steps: NonNegative = 100
    """Write gradient norms per layer and histograms of the trained weights every this many steps. 0: never."""


class Config(Section):
    """A whole `training_config.yaml`."""

    model: ModelSection = ModelSection()
    quantization: QuantizationSection = QuantizationSection()
    lora: LoraSection = LoraSection()
    data: DataSection = DataSection()
    training: TrainingSection = TrainingSection()
    dpo: DpoSection = DpoSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpointing: CheckpointSection = CheckpointSection()
    logging: LoggingSection = LoggingSection()

    def value(self, key: str) -> Any:
        """The value of a dotted key (``training.optim``)."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """The same with other values: dotted key -> value. They are not checked again."""
        changed = {name: getattr(self, name).model_copy(update=part) for name, part in nested(values).items()}
        return self.model_copy(update=changed)


def nested(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Section -> key -> value, from dotted key -> value."""
    tree: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    return tree
