"""What the panel, the dashboard and the reports say alike of a run's state, as plain text."""

from __future__ import annotations

import math
from collections.abc import Callable

from luthier.events.durations import duration
from luthier.events.line import significant, to_ask
from luthier.events.printable import one_line
from luthier.events.types import RunFinished
from luthier.monitor.drawing import count, decimal
from luthier.monitor.state import RunState
from luthier.monitor.statistics import elapsed


def outcome(state: RunState, finished: RunFinished) -> list[tuple[str, str, str]]:
    """What a run came to: (name, value, what the value means)."""
    facts = []
    if math.isfinite(finished.predicted_runtime) and finished.status == "done":
        predicted = duration(finished.predicted_runtime)
        took = duration(elapsed(state, state.updated))
        facts.append(("time", took, f"{predicted} was predicted after 20 steps"))
    if state.log is not None and state.first_loss is not None and state.smoothed_loss is not None:
        value = f"{decimal(state.first_loss)} → {decimal(state.log.loss)}"
        facts.append(("loss", value, f"first → last; smoothed {decimal(state.smoothed_loss)}"))
    if state.best is not None:
        facts.append(("eval loss", decimal(state.best.eval_loss), f"best, at step {state.best.step:,}"))
    if state.on_pairs and state.log is not None:
        value, *held_out = accuracy_of(state)
        facts.append(("accuracy", value, ", ".join(("pairs told apart at the end", *held_out))))
    work = [(f"{count(finished.num_tokens)} tokens", "seen in training")] * (finished.num_tokens > 0)
    work += [(f"{state.memory_gib:.2f} GiB", "highest memory")] * (state.memory_gib > 0)
    if work:
        values, meanings = zip(*work, strict=True)
        facts.append(("work", ", ".join(values), "; ".join(meanings)))
    if finished.final_model:
        facts.append(("final model", one_line(finished.final_model), ""))
        facts.append(("ask it", to_ask(finished.final_model), ""))
    elif state.checkpoint is not None:
        facts.append(("checkpoint", one_line(state.checkpoint.path), "where it can go on"))
    return facts


def accuracy_of(state: RunState) -> tuple[str, ...]:
    """The share of pairs that are told apart, and that of the held-out ones where it is known, in words."""
    return _of_both(state, "reward_accuracy", lambda value: f"{value:.0%}")


def margin_of(state: RunState) -> tuple[str, ...]:
    """The mean margin of pairs, and that of the held-out ones where it is known, in words."""
    return _of_both(state, "reward_margin", lambda value: f"{value:.3g}")


def _of_both(state: RunState, name: str, form: Callable[[float], str]) -> tuple[str, ...]:
    values = [getattr(event, name) for event in (state.log, *state.evaluations[-1:]) if event is not None]
    first, *held_out = [form(value) if value is not None and math.isfinite(value) else "unknown" for value in values]
    return (first, *(f"held out {value}" for value in held_out))


def perplexity(loss: float | None) -> str:
    """e^loss, where it is a number that can be read."""
    if loss is None or math.isnan(loss):
        return "unknown"
    return f"{math.exp(loss):,.3g}" if loss < 20 else "huge"


def rate_trend(state: RunState) -> tuple[str, ...]:
    """Where the learning rate is on its way, in words after its value, longest first; empty while nobody can tell."""
    rates = [point.learning_rate for point in state.history]
    name = state.plan.get("training.lr_scheduler_type", "")
    kind = f", {one_line(str(name))}" if name else ""
    if len(rates) < 2:
        return ("",)
    if rates[-1] > rates[-2]:
        return f"  warming up{kind}", "  warming up"
    if rates[-1] < rates[-2]:
        highest = f"{significant(max(rates), 4):g}"
        from_where = f" from {highest}" if significant(rates[-1], 3) != significant(max(rates), 3) else ""
        words = f"  falling{from_where}"
        return f"{words}{kind}", words, "  falling"
    return f"  steady{kind}", "  steady"
