"""Everything that a run says, typed once.

`luthier.training.engine.run` yields these; the sinks write them; `luthier.events.read` brings them back. An event
is plain data: numbers, strings, lists and dicts of them, so that any of them is one JSON line.

Metrics are named as in Hugging Face's Trainer and TRL: `loss`, `grad_norm`, `learning_rate`, `epoch`, `eval_loss`.
In an event that was read from the log of another program (`luthier.events.follow`) a float that this log does not have
is nan, a count 0, and a plan empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Event:
    """Base of all events. `kind` is the name in events.jsonl."""

    kind: ClassVar[str] = "event"

    def __str__(self) -> str:
        """Its line of training.log; its name, where it has none there. `repr` has everything."""
        from luthier.events.line import format_line

        return format_line(self) or self.kind


@dataclass(frozen=True)
class RunStarted(Event):
    """The first event of every attempt."""

    kind: ClassVar[str] = "run_started"
    run: str
    """Name of the run: `logging.run_name`, or that of its output folder."""
    total_steps: int
    first_step: int
    """0, or the step of the checkpoint that this attempt resumes."""
    epochs: float
    plan: dict[str, Any]
    """Dotted key -> value, as in plan.yaml (the hyper-parameters); empty in a text log."""
    program: str = "luthier"
    """Whose keys the run's YAML has: luthier, Axolotl, LLaMA-Factory, Unsloth; empty where the log does not tell."""
    record: str = ""
    """Its events.jsonl and, behind a `#`, this attempt's name there; empty where there is none, and in a text log."""


@dataclass(frozen=True)
class Notice(Event):
    """A sentence for the reader: what happens, or what should be changed."""

    kind: ClassVar[str] = "notice"
    severity: Literal["info", "warning", "critical"]
    text: str
    change: str = ""
    """The YAML line to change, where there is one."""
    step: int | None = None
    rows: list[str] = field(default_factory=list)
    """Where the first rows of that step come from, when it is about them."""


@dataclass(frozen=True)
class Checked(Event):
    """What a check of the gate found, before the first step."""

    kind: ClassVar[str] = "checked"
    name: str
    """Of the check, stable: ``rows-cut``."""
    verdict: Literal["passed", "warning", "failed", "allowed"]
    """`allowed`: it failed, and the user takes that on purpose."""
    found: str
    fix: str = ""
    """What to write or do, in one line."""
    change: str = ""
    """The YAML line to change, where there is one."""

    def notice(self) -> Notice | None:
        """The same as a sentence for the reader; None for what passed, and for what ends the run with an error."""
        if self.verdict not in ("warning", "allowed"):
            return None
        name = f"{self.name} (allowed)" if self.verdict == "allowed" else self.name
        fix = f"; {self.fix}" if self.fix and not self.change else ""
        return Notice("warning", f"{name}: {self.found}{fix}", self.change)


@dataclass(frozen=True)
class Architecture(Event):
    """What the model is made of, once, after it is loaded."""

    kind: ClassVar[str] = "architecture"
    parameters: int
    trainable_parameters: int
    modules: list[dict[str, Any]]
    """One dict a module, in order: {name: dotted, type: class, parameters, trainable, shape: str}."""


@dataclass(frozen=True)
class MemoryForecast(Event):
    """What the run will hold at its fullest moment, computed before the model is loaded."""

    kind: ClassVar[str] = "memory_forecast"
    gib: float
    """All parts together."""
    parts: dict[str, float]
    """Name -> GiB, in the order of the bar: see `luthier.model.memory`."""
    moment: str
    """When it is fullest: `loading` or `a step`."""
    tokens: int
    """Tokens of the largest pass."""
    room_gib: float
    """What was free, and what the process held already; or `training.memory_gib`, where that is less."""


@dataclass(frozen=True)
class Rehearsed(Event):
    """The largest step was run before step 1, and nothing of it was kept."""

    kind: ClassVar[str] = "rehearsed"
    tokens: int
    """Computed in its largest pass, padding included."""
    trained_tokens: int
    """Most of them in one pass."""
    longest_row_tokens: int
    predicted_gib: float
    """As in `MemoryForecast`."""
    parts: dict[str, float]
    measured_gib: float
    """Peak while it ran."""
    error: float
    """predicted / measured - 1."""
    measured_by: str
    """Whose count the peak is."""
    step_seconds: float
    """Forward, backward and update of its passes; the first ones of a process, so slower than those that follow."""
    eval_seconds: float
    """Of the largest evaluation batch; 0 when nothing is evaluated."""
    save_seconds: float
    checkpoint_bytes: int


@dataclass(frozen=True)
class TimeForecast(Event):
    """How long this attempt will go on: before its first step by the rehearsal, and once more by its first steps."""

    kind: ClassVar[str] = "time_forecast"
    step: int
    """Steps done when it was made."""
    remaining_seconds: float
    """From then on to the end: `steps` x `step_seconds`, and what is below, each with its count."""
    ends_at: float
    """That moment, in epoch seconds."""
    steps: int
    """To come."""
    step_seconds: float
    """Mean of them, by their tokens; the time between two steps included, once steps were seen."""
    evaluations: int
    eval_seconds: float
    """Of each."""
    saves: int
    """Checkpoints and final_model."""
    save_seconds: float
    samples: int
    sample_seconds: float
    """nan before the first one: then nothing is counted for them."""
    epoch_seconds: float
    """All of it for an epoch's steps; nan where less than an epoch is to come."""
    fitted_steps: int
    """Steps that it was fitted on; 0: it is scaled from the rehearsal."""
    error: float
    """Mean relative distance of these steps from the fit; nan: unknown."""


REWARDS = {
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
    "reward_margin": "rewards/margins",
    "reward_accuracy": "rewards/accuracies",
}
"""Fields of `Log` and `Evaluated` that only `objective: dpo` fills -> what TRL, and so the log, calls them."""


def rewards_of(event: Log | Evaluated) -> dict[str, float]:
    """Those that are there, under the names of the log."""
    told = {name: getattr(event, field) for field, name in REWARDS.items()}
    return {name: value for name, value in told.items() if value is not None}


CHANCE = math.log(2)
"""The loss of pairs that nobody tells apart, as before step 1, whatever model and label smoothing."""


def on_pairs(plan: Mapping[str, Any], seen: Iterable[Log | Evaluated | None]) -> bool:
    """Whether a run learns from pairs of answers (`objective: dpo`): its plan says so, or one of these has rewards."""
    if "training.objective" in plan:
        return bool(plan["training.objective"] == "dpo")
    return any(event is not None and event.reward_margin is not None for event in seen)


@dataclass(frozen=True)
class Log(Event):
    """One log step: the mean since the one before."""

    kind: ClassVar[str] = "log"
    step: int
    epoch: float
    loss: float
    """Mean negative log-likelihood (nats) over the trained tokens of the logged steps; of `objective: dpo` the mean of
    its loss over their pairs."""
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
    """Predicted from what steps cost by their tokens, and what evaluations, saves and samples took so far."""
    reward_chosen: float | None = None
    """Of `objective: dpo`, a mean over pairs as the three that follow: beta times how much more probable (in nats) the
    chosen answer is than it was before step 1."""
    reward_rejected: float | None = None
    """The same of the rejected answer."""
    reward_margin: float | None = None
    """Chosen less rejected."""
    reward_accuracy: float | None = None
    """Share of the pairs whose chosen answer has the higher reward."""


@dataclass(frozen=True)
class Timing(Event):
    """Where the seconds of a step go: means per step since the `Log` before the one that this follows.

    On CUDA these are seconds of the device's own clock: what it computes, and what it waits for. Evaluating, saving
    and sampling lie between steps and are in none of them.
    """

    kind: ClassVar[str] = "timing"
    step: int
    data_seconds: float
    """Waiting for the next micro-batches: 0 when the packing threads keep up."""
    forward_seconds: float
    """Loss included; it computes the gradients of the head at once (`luthier.model.head`), so they are in here."""
    backward_seconds: float
    """With gradient checkpointing, the second forward pass is in here."""
    optimizer_seconds: float
    """Length of the gradient, clipping, update."""
    other_seconds: float
    """The rest of the step: histograms, where they are due."""
    ranks_seconds: float = 0.0
    """Adding the gradients of all ranks, the wait for the slowest one included; 0 for a process alone."""
    own_seconds: list[float] = field(default_factory=list)
    """Of each rank: everything above but `ranks_seconds`. Empty for a process alone, and where the model is sharded:
    there the ranks wait for each other in every pass."""
    own_memory_gib: list[float] = field(default_factory=list)
    """Of each rank: as `memory_gib` of a `Log`."""


@dataclass(frozen=True)
class Machine(Event):
    """How the box is doing, after a `Log`; at most once a second. NaN: not known here.

    `gpu_...` is the device that trains, with whatever else runs on it; `cpu_...` and `ram_...` are the whole box.
    """

    kind: ClassVar[str] = "machine"
    step: int
    gpu_utilization: float
    """Percent of the last moments in which the device computed anything."""
    gpu_memory_used_gib: float
    """Of all processes, caches included: more than `memory_gib` of a `Log`."""
    gpu_memory_total_gib: float
    gpu_temperature_c: float
    gpu_power_w: float
    cpu_utilization: float
    """Percent of all cores, since the `Machine` before."""
    ram_used_gib: float
    ram_total_gib: float
    disk_free_gib: float
    """Free for this user where the run writes."""


@dataclass(frozen=True)
class Gradients(Event):
    """Gradient flow: per trained tensor the length of its gradient, and histograms."""

    kind: ClassVar[str] = "gradients"
    step: int
    norms: dict[str, float]
    """Layer (``layers.0.q_proj``) -> L2 norm of the gradients of its trained parameters, before clipping."""
    buckets: dict[str, list[float]] = field(default_factory=dict)
    """Tag (``weights/layers.0.q_proj.lora_A``, ``gradients/...``) -> lowest and highest number, and how many there
    are in each bucket between the two, all of one width. Empty in files of earlier versions."""


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
    reward_chosen: float | None = None
    """As in `Log`, on the held-out pairs; also the three that follow."""
    reward_rejected: float | None = None
    reward_margin: float | None = None
    reward_accuracy: float | None = None


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
    """Mean over the whole run: over its trained tokens; of `objective: dpo` over its pairs."""
    train_runtime: float
    """Seconds of this attempt and of those that it went on from."""
    num_tokens: int
    peak_memory_gib: float
    final_model: str
    """Folder of the adapter; empty unless done."""
    reason: str = ""
    code: str = ""
    """Of the error that ended it, where that is one of Luthier's; then `why` and `fix` are what it says, too."""
    why: str = ""
    fix: str = ""
    predicted_runtime: float = math.nan
    """The same seconds, as predicted after the first 20 steps of this attempt."""

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """What a notebook shows of it (IPython asks for it by this name): the rest is on the screen already."""
        printer.text(f"RunFinished(status={self.status!r}, step={self.step}, final_model={self.final_model!r}, ...)")


EVENTS: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        RunStarted, Notice, Checked, Architecture, MemoryForecast, Rehearsed, TimeForecast, Log, Timing, Machine,
        Gradients, Evaluated, Sampled, CheckpointSaved, Resumed, RunFinished,
    )
}  # fmt: skip
