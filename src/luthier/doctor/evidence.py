"""What rules share: when they can judge, how a curve is read, and how a line to change is written."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Protocol

from luthier.doctor.elsewhere import name_in
from luthier.doctor.finding import Change, Needs
from luthier.doctor.history import History
from luthier.doctor.statistics import median, noise
from luthier.events.line import significant
from luthier.events.types import Log

SMALLEST = 1e-3
"""Nats: below, a loss is as good as 0."""
FEWEST = 7
"""Log lines that tell anything of the noise."""
RAISED = 2.5
"""Times the usual rate: where a rank of 16 or less still trains calmly, and all that one line can do."""
USUAL_ROWS = 16
"""In a step, where nobody tells."""
FAR_STEPS, FAR_EPOCHS = 10, 0.1
"""From one log line to the next: the loss of one is then a mean over many rows."""
SHIPPED_END = 5e-5
"""The min_learning_rate of configs/training_config.yaml."""
USUAL_RATES = {"lora": 2e-4, "full": 2e-5, "scratch": 1e-3}
"""Peak learning rates to start from: for an adapter, for all weights of a trained model, for random weights."""
USUAL_RATES_OF_PAIRS = {"lora": 1e-5, "full": 1e-6}
"""The same for `objective: dpo`, which takes 5e-6 to 5e-5 with an adapter and a tenth of that for all weights."""


def all_of(*needs: Needs) -> Needs:
    """The first thing that is missing."""
    return lambda run: next((text for need in needs if (text := need(run))), "")


def logs(count: int, steps: int = 0) -> Needs:
    """So many log lines with a loss, and so many steps."""

    def missing(run: History) -> str:
        # after steps back in a log that is in no order, a part of the history can be empty
        lines = min(len(run.whole), len(run.recent)) if run.beginning else 0
        if lines < count:
            return f"{lines} of {count} log lines"
        return f"step {run.step:,} of {steps:,}" if run.step < steps else ""

    return missing


def evaluations(count: int) -> Needs:
    """So many evaluations."""
    return lambda run: "" if len(run.evaluations) >= count else f"{len(run.evaluations)} of {count} evaluations"


def known(key: str) -> Needs:
    """A key of the plan."""
    return lambda run: "" if run.get(key) is not None else f"this log does not tell {key}"


def readings(kind: str, field: str, count: int) -> Needs:
    """So many `Timing` or `Machine` events in which a field is known."""

    def missing(run: History) -> str:
        found = len(finite(getattr(event, field) for event in getattr(run, kind)))
        return "" if found >= count else f"{found} of {count} readings of {field}"

    return missing


def has_gpu(run: History) -> bool:
    """Whether it runs on a GPU, or may."""
    return str(run.get("machine.device", "cuda")) == "cuda"


def finite(values: Iterable[float]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if math.isfinite(value)]


class Line(Protocol):
    """A log line, as far as its loss."""

    @property
    def loss(self) -> float:
        """In nats."""


def losses(lines: Sequence[Line]) -> list[float]:
    """Their losses."""
    return [line.loss for line in lines]


def points(lines: Sequence[Log]) -> list[tuple[float, float]]:
    """(step, loss)."""
    return [(line.step, line.loss) for line in lines]


def wobble(lines: Sequence[Log]) -> float:
    """How far a log line lies from the curve by chance, as a share of the loss: one standard deviation.

    In logarithms, for the noise of a loss grows with the loss; and generously from few lines, which tell little of it.
    """
    if len(lines) < FEWEST:
        return math.inf
    return noise([math.log(max(line.loss, SMALLEST)) for line in lines]) * (1 + 16 / len(lines))


def first_loss(run: History) -> tuple[float, float]:
    """Loss of the untouched model, and its standard deviation as a share of it.

    The first log line is one step; later ones are means over the steps between them, and less noisy by their root.
    """
    start = run.beginning[:3]
    steps = start[-1].step - start[-2].step if len(start) > 1 else 1
    return start[0].loss, wobble(run.whole) * math.sqrt(max(1, steps) / max(1, start[0].step))


def ratio(now: float, before: float) -> float:
    """By what share a loss is higher, as a difference of logarithms: 0.1 is a tenth more, 0.7 twice as much."""
    return math.log(max(now, SMALLEST) / max(before, SMALLEST))


def level(lines: Sequence[Line], count: int = 3) -> float:
    """Where the curve is: the median of the latest log lines."""
    return median(losses(lines[-count:]))


def peak_rate(run: History) -> float:
    """The peak learning rate: as planned, or the highest that was logged; NaN where there is neither."""
    planned = run.get("training.learning_rate")
    if isinstance(planned, (int, float)):
        return float(planned)
    return max(finite(line.learning_rate for line in run.whole), default=math.nan)


def of_tokens(run: History) -> bool:
    """Whether its loss is one of tokens, and not of pairs of answers."""
    return not run.on_pairs


def usual_rate(run: History) -> float:
    """A learning rate to start from, for what is trained here."""
    kind = "full" if run.get("training.finetuning_type") == "full" else "lora"
    if run.on_pairs:
        return USUAL_RATES_OF_PAIRS[kind]
    if run.get("model.from_scratch"):
        return USUAL_RATES["scratch"]
    return USUAL_RATES[kind]


def warm(run: History) -> tuple[Log, ...]:
    """The log lines after the warm-up: from the first whose learning rate is at least half of the peak."""
    peak = peak_rate(run)
    if not math.isfinite(peak):
        return run.whole
    for index, line in enumerate(run.whole):
        if not line.learning_rate < peak / 2:
            return run.whole[index:]
    return ()


def first_of(run: History, holds: Callable[[Log], bool]) -> int:
    """The step of the first log line from which on all hold; that of a long run as finely as its lines are kept."""
    kept = {line.step: line for line in (*run.beginning, *run.whole, *run.recent)}
    first = run.step
    for step in sorted(kept, reverse=True):
        if not holds(kept[step]):
            break
        first = step
    return first


def counted(run: History) -> bool:
    """Whether the steps are numbers of log lines: another program's log that tells no step at all."""
    lines = run.whole
    one_by_one = all(b.step - a.step == run.curve.stride for a, b in pairwise(lines))
    return not run.ours and not run.plan and not run.total_steps and one_by_one and lines[:1] == run.beginning[:1]


def far_apart(run: History) -> bool:
    """Whether each log line tells of many steps: ten at least, or a tenth of an epoch where steps are not known."""
    pairs = list(pairwise(run.whole))
    if counted(run):
        return bool(pairs) and min(b.epoch - a.epoch for a, b in pairs) > FAR_EPOCHS - 1e-6  # false for NaN
    return bool(pairs) and min(b.step - a.step for a, b in pairs) >= FAR_STEPS


def rows_a_line(run: History) -> float:
    """Over how many rows the loss of a log line is a mean, at least; infinite where the log tells no steps."""
    if counted(run) or len(run.whole) < 2:
        return math.inf
    rows = run.get("plan.examples_per_step") or run.get("training.per_device_train_batch_size") or USUAL_ROWS
    return float(rows) * min(b.step - a.step for a, b in pairwise(run.whole))


def place(run: History, line: Log) -> str:
    """Where a log line is: its step; its epoch where steps are not known and epochs are."""
    if counted(run) and math.isfinite(line.epoch):
        return f"at epoch {line.epoch:g}"
    return f"at step {line.step:,}"


def change(run: History, key: str, new: Any, old: Any = None) -> Change:
    """The line to change; `old` is what is known without a plan, and the name is that of the program that trains."""
    if run.ours or key in run.plan:
        return Change(key, yaml_value(run.plan[key]) if key in run.plan else "", yaml_value(new))
    return Change(name_in(key, run.program), "" if old is None else yaml_value(old), yaml_value(new))


def other_rate(run: History, new: float) -> Change:
    """The line of the learning rate; what was logged stands for what no plan tells."""
    peak = peak_rate(run)
    return change(run, "training.learning_rate", new, peak if math.isfinite(peak) else None)


def lower_rate(run: History, factor: float = 10) -> tuple[Change, ...]:
    """A tenth of the learning rate (or another part), at most the usual; a schedule that ends above it ends lower.

    Where no plan says how the schedule ends, one as in the shipped config is counted with.
    """
    peak = peak_rate(run)
    new = usual_rate(run)
    if math.isfinite(peak):
        new = significant(min(peak / factor, new), 1)
    line = other_rate(run, new)
    if run.get("training.min_learning_rate", SHIPPED_END if run.ours and not run.plan else 0.0) > new:
        return line, change(run, "training.min_learning_rate", significant(new / 10, 1))
    return (line,)


def higher_rate(run: History) -> tuple[Change, ...]:
    """For a loss that does not fall: the usual rate, or two and a half times as much; none where it is higher."""
    peak, usual = peak_rate(run), usual_rate(run)
    new = usual if not peak >= usual / 2 else significant(RAISED * usual, 2)
    return () if peak >= new else (other_rate(run, new),)


def rows_fix(run: History, question: str = "") -> str:
    """What to do where the rows are to be looked at; other programs have no command for it.

    Args:
        run: The history.
        question: What to look for; empty: what matters most.
    """
    if not question:
        question = "is the answer trained, and does it follow from the question?"
        question = "is the chosen answer clearly the better one?" if run.on_pairs else question
    if run.ours:
        return f"{inspect_row(run)} shows a row as the model sees it: {question}"
    return f"look at some rows as tokens, with their labels: {question}"


def inspect_row(run: History) -> str:
    """The command that shows a row of this very run, out of its record; of its config where the plan is not known."""
    folder = run.get("training.output_dir")
    return f"luthier inspect --from {shlex.quote(str(folder))} --row 1" if folder else "luthier inspect CONFIG --row 1"


def resume_fix(run: History) -> str:
    """How to go on from the newest checkpoint."""
    if run.ours:
        return "luthier train CONFIG --resume auto"
    return "go on from a checkpoint: resume_from_checkpoint in the Trainer, TRL, Axolotl and LLaMA-Factory"


def less_memory(run: History, longest: int = 0) -> tuple[Change, ...]:
    """The smallest change that helps: fewer tokens at once; less kept of them; smaller weights; less text.

    Where the YAML decides the passes (`auto: false`) it is to let the run plan them, and lower them by itself.

    Args:
        run: The history; its plan is enough.
        longest: Tokens of the longest row, where it is known. A pass must hold it, or two of it (DPO).
    """
    if run.get("training.auto") is False:
        return (change(run, "training.auto", True),)
    tokens = run.get("plan.max_tokens_per_micro_batch") or run.get("training.max_tokens_per_micro_batch")
    length = run.get("data.max_seq_length", 0)
    least = (longest or length) * (2 if run.get("training.objective") == "dpo" else 1)
    if isinstance(tokens, int) and tokens // 2 >= least > 0:
        return (change(run, "training.max_tokens_per_micro_batch", tokens // 2, tokens),)
    if not run.plan:
        return (
            change(run, "training.per_device_train_batch_size", "half of it"),
            change(run, "training.gradient_accumulation_steps", "twice as many, so that a step stays the same"),
        )
    if not run.get("training.gradient_checkpointing") and not run.get("plan.checkpointed_layers"):
        return (change(run, "training.gradient_checkpointing", True),)
    if not run.get("quantization.load_in_4bit") and run.get("training.finetuning_type") == "lora":
        return (change(run, "quantization.load_in_4bit", True),)
    return (change(run, "data.max_seq_length", (longest or length) // 2),)


def shorter(run: History, step: int, epoch: float) -> tuple[Change, ...]:
    """The line that ends a run at about this step; none where it does so already or where that cannot be told."""
    if run.get("training.max_steps") is not None:
        return (change(run, "training.max_steps", step),)
    epochs = run.get("training.num_train_epochs")
    wanted = max(1.0, float(math.ceil(epoch))) if math.isfinite(epoch) else math.inf
    return (change(run, "training.num_train_epochs", wanted),) if wanted < (epochs or math.inf) else ()


def yaml_value(value: Any) -> str:
    """A plain value as it stands in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def percent(share: float) -> str:
    """A share for the reader: ``8 %``, ``0.4 %``."""
    return f"{100 * share:.2g} %" if abs(share) < 0.1 else f"{100 * share:.0f} %"
