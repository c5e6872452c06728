"""The Plan: what will happen, each number with where it came from, and the facts it rests on.

Types only; `luthier.config.resolve` computes a plan, once, and nobody changes it after that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from luthier.config.schema import Config


@dataclass(frozen=True)
class DataFacts:
    """What counting the tokenized rows found. See `luthier.data.prepare`."""

    train_rows: int
    """Rows of one epoch: after the split, without those left out, with the weights of their sources."""
    eval_rows: int
    train_tokens: int
    """All tokens of one epoch of training rows."""
    trained_tokens: int
    """Those of them that are trained (labels)."""
    longest_row_tokens: int
    template: str
    fingerprint: str
    pairs: bool = False
    """Whether rows are counted in pairs of a chosen and a rejected answer (`objective: dpo`); `longest_row_tokens` is
    of one answer with its prompt in either case."""

    @property
    def unit(self) -> str:
        """What is counted: `rows` or `pairs`."""
        return "pairs" if self.pairs else "rows"

    @property
    def largest_example_tokens(self) -> int:
        """What one example takes of a pass at most: a row, or a pair padded to the longer of its two."""
        return self.longest_row_tokens * (2 if self.pairs else 1)


@dataclass(frozen=True)
class ModelFacts:
    """What the model's config.json says. See `luthier.model.describe`."""

    architecture: str
    parameters: int
    trainable_parameters: int | None
    layers: int
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int | None
    can_isolate_documents: bool
    """Whether packed documents can be kept apart (attention only, no recurrence across positions)."""
    lean_obstacle: str = ""
    """Why the lean path does not compute this model with this adapter; empty when it does."""
    has_sliding_window: bool = False
    """Whether a layer's attention ends some tokens back."""
    short_row_tokens: int | None = None
    """Up to how many tokens rows are turned by one set of angles, and longer ones by another; None: all by one."""
    supports_gradient_checkpointing: bool = True
    """Whether its own layers can be computed again in the backward pass."""


@dataclass(frozen=True)
class MachineFacts:
    """What this box can do. See `luthier.machine.probe`."""

    device: Literal["cuda", "cpu", "mps"]
    device_name: str
    world_size: int
    supports_bfloat16: bool
    """The device computes bfloat16 in hardware, so `auto` picks it."""
    memory_gib: float
    """Memory of the device (of the machine, on CPU)."""
    free_memory_gib: float
    cpu_cores: int
    has_bitsandbytes: bool
    supports_fp8: bool = False
    """The device multiplies 8-bit floats, or (a CPU) computes the same numbers plainly."""
    is_here: bool = True
    """False: the device is a card that the plan is made for without having it (`luthier.machine.cards`)."""


@dataclass(frozen=True)
class Passes:
    """How the examples of a step go through the model, chosen by what memory holds. See `luthier.model.budget`."""

    micro_batch_tokens: int
    """Tokens in one forward and backward pass."""
    checkpointed_layers: int = 0
    """Layers that keep only their input, and are computed again in the backward pass."""
    unpack_once: bool = False
    """4-bit weights are unpacked (8-bit floats: transposed) once and kept, instead of at each use."""
    how: str = ""
    """The reason, with its numbers."""
    lowered: bool = False
    """Memory ran out and made them what they are: they win over what the YAML says."""

    @property
    def layers_how(self) -> str:
        """Why so many layers are computed again, where memory decides it."""
        count = self.checkpointed_layers
        return f"memory asks for {count:,}" if count else "memory holds what all layers keep"


@dataclass(frozen=True)
class Part:
    """One part of what training holds in memory."""

    name: str
    gib: float
    how: str
    """What it is, with its numbers."""


@dataclass(frozen=True)
class Memory:
    """What a run will hold at its fullest moment. See `luthier.model.memory`."""

    parts: tuple[Part, ...]
    moment: str
    """When that is: ``loading`` or ``a step``."""
    tokens: int
    """Tokens of the pass that holds the most."""
    room_gib: float
    """What there is for all parts together."""
    asked: bool = False
    """Whether that is `training.memory_gib`, and not what is free."""

    @property
    def gib(self) -> float:
        """All parts."""
        return sum(part.gib for part in self.parts)


@dataclass(frozen=True)
class Value:
    """A resolved value and its origin.

    Attributes:
        key: Dotted key (``training.learning_rate``) or name of a derived number (``total_steps``).
        value: The value itself.
        source: ``configs/training_config.yaml:14``, ``override``, ``dict``, ``default`` or ``derived``.
        how: For derived and ``auto`` values the arithmetic or the reason, e.g.
            ``4 x 4 accumulation x 1 device = 16 examples a step``.
        asked: What the user wrote where `value` is made of it: ``epoch`` for save_steps; else None.
        known: False while facts that it rests on are missing; `how` says which.
    """

    key: str
    value: Any
    source: str
    how: str = ""
    asked: Any = None
    known: bool = True

    @property
    def is_key(self) -> bool:
        """Whether it is that of a key of the config, not a derived number."""
        return self.source != "derived"


@dataclass(frozen=True)
class Due:
    """The steps after which something is due; a run may have millions.

    Attributes:
        every: Their multiples of this are; 0: none.
        last: The last step. What is beyond counts as that: a resumed run may have been longer once.
        single: Those beside.
    """

    every: int
    last: int
    single: frozenset[int]

    def __contains__(self, step: int) -> bool:
        step = min(step, self.last)
        return step in self.single or self._is_multiple(step)

    def __iter__(self) -> Iterator[int]:
        """Each once, in no order."""
        yield from (step for step in self.single if not self._is_multiple(step))
        yield from range(self.every, self.last + 1, self.every) if self.every else ()

    def left(self, step: int) -> int:
        """How many there are from `step` on, its own included."""
        beside = sum(single >= step and not self._is_multiple(single) for single in self.single)
        return beside + (self.last // self.every - max(0, step - 1) // self.every if self.every else 0)

    def _is_multiple(self, step: int) -> bool:
        return step > 0 and self.every > 0 and step % self.every == 0


@dataclass(frozen=True, repr=False)
class Plan:
    """Everything the run needs to know. Derived numbers are fields of their own.

    `config` has no ``auto`` left but where it stands for what is there: the rows' template, free memory.

    Without data or model facts (a plan made offline) the numbers that need them are 0, and their `Value` says so.
    """

    config: Config
    machine: MachineFacts
    model: ModelFacts | None
    data: DataFacts | None
    values: tuple[Value, ...]
    warnings: tuple[str, ...]
    examples_per_step: int
    """Over all devices: per_device_train_batch_size x gradient_accumulation_steps x world_size, or all rows where there
    are fewer."""
    total_steps: int
    """Optimizer steps of the whole run."""
    steps_per_epoch: float
    warmup_steps: int
    """First steps, in which the learning rate rises."""
    decay_steps: int
    """Last steps, in which it falls."""
    eval_every: int
    """0: never."""
    save_every: int
    """0: at the end, and after an evaluation that is the best."""
    log_every: int
    passes: Passes
    """How a step goes through the model: what this run does, which may be less than memory would hold."""
    share_beginnings: bool = False
    """Whether the words that all rows of a micro-batch begin with are computed once."""
    memory: Memory | None = None
    """What it will hold; None before model and rows are there."""

    def __str__(self) -> str:
        """All of it in words and numbers, as `luthier plan` prints it."""
        from luthier.config.render import render_plan

        return render_plan(self)

    def __repr__(self) -> str:
        """A line of it: the plan has hundreds of numbers."""
        return f"Plan({self.total_steps:,} steps of {self.examples_per_step:,} examples; print() shows all of it)"

    @property
    def sharded(self) -> bool:
        """Whether each rank holds a part of the model: `fsdp`, and others to share it with."""
        return self.config.training.fsdp and self.machine.world_size > 1

    @property
    def packed(self) -> bool:
        """Whether examples stand end to end in a row, instead of padded beside each other."""
        return self.config.training.packing is True

    @property
    def lean(self) -> bool:
        """Whether the lean path computes the run."""
        return self.config.training.lean_path is True

    @property
    def pairs(self) -> bool:
        """Whether it learns from pairs of a chosen and a rejected answer: `objective: dpo`."""
        return self.config.training.objective == "dpo"

    @property
    def max_tokens_per_micro_batch(self) -> int:
        """Tokens in one forward and backward pass."""
        return self.passes.micro_batch_tokens

    @property
    def checkpointed_layers(self) -> int:
        """Layers computed again in the backward pass."""
        return self.passes.checkpointed_layers

    @property
    def unpack_once(self) -> bool:
        """Whether the lean path keeps 4-bit weights unpacked, or 8-bit floats also transposed."""
        return self.passes.unpack_once

    def with_passes(self, passes: Passes) -> Plan:
        """The same run through other passes, after memory ran out: no example and no gradient of it changes.

        What was decided from the passes before follows, with the new reason; what the user wrote stays as written.
        """
        made = {
            "max_tokens_per_micro_batch": (passes.micro_batch_tokens, passes.how),
            "training.max_tokens_per_micro_batch": (passes.micro_batch_tokens, passes.how),
            "checkpointed_layers": (passes.checkpointed_layers, passes.layers_how),
            "training.gradient_checkpointing": (passes.checkpointed_layers > 0, passes.layers_how),
        }
        new = {
            old.key: replace(old, value=made[old.key][0], how=made[old.key][1])
            for old in self.values
            if old.key in made and old.how
        }
        config = self.config.with_values({key: value.value for key, value in new.items() if value.is_key})
        return replace(self, config=config, values=tuple(new.get(old.key, old) for old in self.values), passes=passes)

    def value(self, key: str) -> Value:
        """The value of a dotted key (``training.optim``) or a derived number (``total_steps``).

        Raises:
            KeyError: No such key.
        """
        for value in self.values:
            if value.key == key:
                return value
        raise KeyError(key)

    @property
    def logs(self) -> Due:
        """After which steps a log line is: the first one, every so many, and the last one."""
        return Due(self.log_every, self.total_steps, frozenset({1, self.total_steps}))

    @property
    def evaluations(self) -> Due:
        """After which steps the held-out rows are: every so many, and the last one."""
        return Due(self.eval_every, self.total_steps, frozenset({self.total_steps} if self.eval_every else ()))

    @property
    def saves(self) -> Due:
        """After which steps a checkpoint is, by their numbers: the first one, every so many, and the last one.

        By the clock, after an evaluation that is the best and after a failure there are more
        (`luthier.training.saving`).
        """
        first = {1} if self.save_every and self.config.checkpointing.save_first_step else set()
        return Due(self.save_every, self.total_steps, frozenset({*first, self.total_steps}))

    @property
    def samples(self) -> Due:
        """After which steps samples are (0: before the first one), if there are prompts: those named and the last."""
        named = {step for step in self.config.evaluation.sample_steps if step <= self.total_steps}
        return Due(0, self.total_steps, frozenset({*named, self.total_steps}))
