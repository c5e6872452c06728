"""Everything that a run says, typed once.

`luthier.training.engine.run` yields these; the sinks write them; `luthier.events.read` brings them back. An event
is plain data: numbers, strings, lists and dicts of them, so that any of them is one JSON line.

Metrics are named as in Hugging Face's Trainer and TRL: `loss`, `grad_norm`, `learning_rate`, `epoch`, `eval_loss`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Event:
    """Base of all events. `kind` is the name in events.jsonl."""

    kind: ClassVar[str] = "event"


@dataclass(frozen=True)
class RunStarted(Event):
    """The first event of every attempt."""

    kind: ClassVar[str] = "run_started"
    run: str
    """Name of the run: the output folder's name and a short id."""
    total_steps: int
    first_step: int
    """0, or the step of the checkpoint that this attempt resumes."""
    epochs: float
    plan: dict[str, Any]
    """Dotted key -> value, as in plan.yaml (the hyper-parameters)."""


@dataclass(frozen=True)
class Notice(Event):
    """A sentence for the reader: what happens, or what should be changed."""

    kind: ClassVar[str] = "notice"
    severity: Literal["info", "warning", "critical"]
    text: str
    change: str = ""
    """The YAML line to change, where there is one."""
    step: int | None = None


@dataclass(frozen=True)
class Architecture(Event):
    """What the model is made of, once, after it is loaded."""

    kind: ClassVar[str] = "architecture"
    parameters: int
    trainable_parameters: int
    modules: list[dict[str, Any]]
    """One dict a module, in order: {name: dotted, type: class, parameters, trainable, shape: str}."""


@dataclass(frozen=True)
class Log(Event):
    """One log step: the mean since the one before."""

    kind: ClassVar[str] = "log"
    step: int
    epoch: float
    loss: float
    """Mean negative log-likelihood (nats) over the trained tokens of the logged steps."""
    grad_norm: float
    """Length of the gradient of the last step before clipping."""
    learning_rate: float
    """Used by the last step."""
    num_tokens: int
    """Tokens seen since the start of training, prompts included, padding excluded."""
    tokens_per_second: float
    """Of them, in the logged steps; evaluation and saving excluded."""
    trained_tokens_per_second: float
    step_seconds: float
    """Mean of the logged steps."""
    memory_gib: float
    """Peak so far: of the device on CUDA, of the process (resident set) on CPU."""
    remaining_seconds: float


@dataclass(frozen=True)
class Gradients(Event):
    """Gradient flow: per trained tensor the length of its gradient, and histograms."""

    kind: ClassVar[str] = "gradients"
    step: int
    norms: dict[str, float]
    """Layer (``layers.0.q_proj``) -> L2 norm of the gradients of its trained parameters, before clipping."""
    histograms: dict[str, list[list[float]]]
    """Tag (``weights/layers.0.q_proj.lora_A``, ``gradients/...``) -> [left edge, right edge, count] per bucket."""


@dataclass(frozen=True)
class Evaluated(Event):
    """A pass over the held-out rows."""

    kind: ClassVar[str] = "evaluated"
    step: int
    epoch: float
    eval_loss: float
    eval_tokens: int
    eval_runtime: float
    """Seconds."""
    best: bool


@dataclass(frozen=True)
class Sampled(Event):
    """What the model writes at a milestone (greedy)."""

    kind: ClassVar[str] = "sampled"
    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint is whole on disk."""

    kind: ClassVar[str] = "checkpoint_saved"
    step: int
    path: str
    bytes: int
    seconds: float
    removed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Resumed(Event):
    """This attempt goes on from a checkpoint."""

    kind: ClassVar[str] = "resumed"
    step: int
    path: str
    passed_over: list[str] = field(default_factory=list)
    """Newer checkpoints that were not whole, each with the reason."""


@dataclass(frozen=True)
class RunFinished(Event):
    """The last event of an attempt that ended in order."""

    kind: ClassVar[str] = "run_finished"
    status: Literal["done", "stopped", "failed"]
    """`stopped`: by a signal; resumable."""
    step: int
    epoch: float
    train_loss: float
    """Token mean over the whole run."""
    train_runtime: float
    """Seconds of this attempt."""
    num_tokens: int
    peak_memory_gib: float
    final_model: str
    """Folder of the adapter; empty unless done."""
    reason: str = ""


EVENTS: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        RunStarted, Notice, Architecture, Log, Gradients, Evaluated, Sampled, CheckpointSaved, Resumed, RunFinished
    )
}  # fmt: skip
