"""The numbers on the overview: each with its name, its value, and in a few words what the value means.

The long answer to each is in `answers`. Not covered: where they stand on the screen (`panes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rich.text import Text

from luthier.events.durations import duration
from luthier.events.line import significant
from luthier.monitor.dashboard import answers
from luthier.monitor.dashboard.answers import Answer
from luthier.monitor.dashboard.palette import BAD, GOOD, WARNING, strong
from luthier.monitor.dashboard.scene import WatchedRun, has_gpu
from luthier.monitor.drawing import count, decimal
from luthier.monitor.statistics import band, elapsed, in_words, shares, step_times, time_left
from luthier.monitor.words import accuracy_of, margin_of, perplexity, rate_trend

LABEL_WIDTH = 13
WORSE = "very bad, above the start"
Value = Text | tuple[Text, ...]
"""A value in words, or several forms of it, longest first."""


@dataclass(frozen=True)
class Metric:
    """One number: `label` is what the reader sees, `key` what the charts call it."""

    key: str
    label: str
    value: Callable[[WatchedRun], Value]
    meaning: Callable[[WatchedRun], str]
    answer: Answer
    """The long one."""
    timed: bool = False
    """Whether the passing of time alone changes it."""
    pairs: bool | None = None
    """True: only a run that learns from pairs of answers has it; False: it makes room for those there."""
    answer_of_pairs: Answer | None = None
    """Where that is another one for such a run."""

    def shown(self, run: WatchedRun) -> bool:
        """Whether it has a place for this run."""
        return self.pairs is None or self.pairs == run.state.on_pairs

    def told(self, run: WatchedRun) -> Answer:
        """The long answer for this run."""
        return (self.answer_of_pairs if run.state.on_pairs else None) or self.answer


def line(metric: Metric, run: WatchedRun, width: int, height: int, focused: bool) -> Text:
    """Its name and value, and below them, where there are two lines, what the value means."""
    text = Text(no_wrap=True)
    text.append("› " if focused else "  ", "bold").append(
        f"{metric.label:<{LABEL_WIDTH - 2}}", "" if focused else "dim"
    )
    text.append_text(fitting(metric.value(run), width - LABEL_WIDTH))
    text.truncate(width, overflow="ellipsis")
    if height > 1:
        below = Text(f"{'':<{LABEL_WIDTH}}{whole_parts(metric.meaning(run), width - LABEL_WIDTH)}", "dim italic")
        below.truncate(width, overflow="ellipsis")
        text.append("\n").append_text(below)
    return text


def fitting(value: Value, room: int) -> Text:
    """The longest form that fits; where none does, the parts (two spaces between them) that do: no number is cut."""
    forms = value if isinstance(value, tuple) else (value,)
    text = next((form for form in forms if form.cell_len <= room), forms[-1])
    while text.cell_len > room and "  " in text.plain.rstrip():
        text = text[: text.plain.rstrip().rindex("  ")]
    return text


def whole_parts(words: str, room: int) -> str:
    """As much of a meaning as fits, without the part of a sentence (after `; `) that does not."""
    while len(words) > room and "; " in words:
        words = words.rpartition("; ")[0]
    return words


def _unknown(words: str = "not in this log") -> Text:
    return Text(words, "dim")


def _number(value: float, form: Callable[[float], str]) -> Text:
    return strong(form(value)) if math.isfinite(value) else _unknown()


def _loss(run: WatchedRun) -> Text:
    state = run.state
    if state.log is None:
        return _unknown("loading" if state.status == "starting" else "waiting for the first log line")
    value = strong(decimal(state.log.loss), math.isfinite(state.log.loss))
    return value if state.smoothed_loss is None else value.append(f"  smoothed {decimal(state.smoothed_loss)}")


def _loss_meaning(run: WatchedRun) -> str:
    loss = run.state.smoothed_loss
    if loss is None:
        return "how wrong the predictions are; lower is better"
    if run.state.on_pairs:
        return "lower is better; 0.693 is chance"
    return "lower is better" + (f"; perplexity {perplexity(loss)}" if math.isfinite(loss) else "")


def _eval(run: WatchedRun) -> Value:
    state = run.state
    if not state.evaluations:
        return _unknown("no evaluation yet")
    last, best = state.evaluations[-1], state.best or state.evaluations[-1]
    value = strong(decimal(last.eval_loss), math.isfinite(last.eval_loss)).append(f"  best {decimal(best.eval_loss)}")
    return value.copy().append(f" at {best.step:,}"), value


_BAND, _BAND_OF_PAIRS = (0.3, 1.5, 2.5), (0.1, 0.5, 0.72)
"""Between the first two a loss is good, from the third on bad: one of tokens, and one of pairs."""


def _band(run: WatchedRun) -> Value:
    loss = run.state.smoothed_loss
    if loss is None:
        return _unknown("no loss yet")
    if math.isfinite(loss) and run.trend is None:
        return _unknown("too early")
    pairs = run.state.on_pairs
    low, high, bad = _BAND_OF_PAIRS if pairs else _BAND
    color = BAD if not math.isfinite(loss) else GOOD if low <= loss < high else WARNING if loss >= bad else ""
    if not pairs and loss > max(bad, 1.1 * (run.state.first_loss or loss)):
        return Text(WORSE, f"bold {color}")
    latest = run.state.evaluations[-1].eval_loss if run.state.evaluations else None
    forms = tuple(Text(words, f"bold {color}".strip()) for words in in_words(loss, latest, pairs))
    return forms if len(forms) > 1 else forms[0]


def _band_meaning(run: WatchedRun) -> str:
    loss = run.state.smoothed_loss
    if loss is None or math.isnan(loss):
        return "usual words for a loss"
    return f"usual words for {band(loss, run.state.on_pairs)[0]}" if run.trend else "needs six log lines"


def _eval_meaning(run: WatchedRun) -> str:
    return f"on {'pairs' if run.state.on_pairs else 'rows'} it never trains on; rising = overfitting"


def _of_pairs(words: tuple[str, ...]) -> Value:
    return tuple(strong(words[0]).append("".join(f"  {more}" for more in words[1:end])) for end in (2, 1))


def _accuracy(run: WatchedRun) -> Value:
    return _of_pairs(accuracy_of(run.state)) if run.state.log else _unknown("no log line yet")


def _margin(run: WatchedRun) -> Value:
    return _of_pairs(margin_of(run.state)) if run.state.log else _unknown("no log line yet")


def _margin_meaning(run: WatchedRun) -> str:
    log = run.state.log
    words = "chosen less rejected; should rise from 0"
    if log is None or log.reward_chosen is None or log.reward_rejected is None:
        return words
    return f"chosen {log.reward_chosen:+.3g}, rejected {log.reward_rejected:+.3g}; should rise from 0".replace("-", "−")


def _best(run: WatchedRun) -> Text:
    lowest = run.state.lowest
    return strong(decimal(lowest.loss)).append(f"  at step {lowest.step:,}") if lowest else _unknown("no loss yet")


def _mean(run: WatchedRun) -> Text:
    found = run.trend
    return strong(decimal(found.mean)).append(f"  spread {decimal(found.spread)}") if found else _unknown("too early")


def _mean_meaning(run: WatchedRun) -> str:
    found = run.trend
    return f"over the last {found.steps:,} steps; how far lines stray" if found else "needs six log lines"


def _slope(run: WatchedRun) -> Text:
    found = run.trend
    if found is None:
        return _unknown("too early")
    color = {"falling": GOOD, "rising": WARNING, "level": ""}[found.direction]
    return Text.assemble(
        (found.direction, f"bold {color}".strip()), f"  {found.change(found.slope)} in {found.unit} steps"
    )


def _slope_meaning(run: WatchedRun) -> str:
    found = run.trend
    if found is None:
        return "where the loss goes; needs six log lines"
    return f"95 %: {found.change(found.low)} to {found.change(found.high)}; over {found.steps:,} steps"


def _learning_rate(run: WatchedRun) -> Value:
    if run.state.log is None:
        return _unknown("no log line yet")
    rate = run.state.log.learning_rate
    if not math.isfinite(rate):
        return _unknown()
    number = strong(f"{significant(rate, 3):g}")
    return tuple(number.copy().append(words) for words in rate_trend(run.state))


def _gradient(run: WatchedRun) -> Value:
    if run.state.log is None:
        return _unknown("no log line yet")
    norm = run.state.log.grad_norm
    if not math.isfinite(norm):
        return _unknown() if math.isnan(norm) and math.isfinite(run.state.log.loss) else strong(str(norm), False)
    limit, value = run.state.max_grad_norm, strong(decimal(norm))
    if math.isnan(limit):
        return value
    words = ("shortened to",) if norm > limit else ("below the limit of", "below limit", "below")
    return tuple(value.copy().append(f"  {word} {limit:g}") for word in words)


def _left(run: WatchedRun) -> Value:
    state = run.state
    if state.finished is not None:
        gone = elapsed(state, run.now)
        return strong(state.finished.status).append(f"  after {duration(gone)}" if math.isfinite(gone) else "")
    left = time_left(state, run.now)
    if left is None:
        return _unknown() if state.logged_at else _unknown("no log line yet")
    if run.silent:
        return _unknown("nobody knows: it is silent")
    if left.seconds == 0:
        return strong("any moment")
    value = strong(duration(left.seconds))
    return (value.copy().append(f" ± {duration(left.margin)}"), value) if math.isfinite(left.margin) else value


def _left_meaning(run: WatchedRun) -> str:
    left, gone = time_left(run.state, run.now), elapsed(run.state, run.now)
    words = [f"{duration(gone)} gone"] if math.isfinite(gone) and run.state.finished is None else []
    words += ["± from how step times vary"] if left and math.isfinite(left.margin) else []
    return "; ".join(words) or "until the last step"


def _speed(run: WatchedRun) -> Text:
    if run.state.log is None:
        return _unknown("no log line yet")
    value = _number(run.state.log.tokens_per_second, count)
    return value.append(" tokens/s") if math.isfinite(run.state.log.tokens_per_second) else value


def _step(run: WatchedRun) -> Text:
    mean, deviation = step_times(run.state)
    if not math.isfinite(mean):
        return _unknown()
    return strong(count(mean)).append(f" s ± {count(deviation)}" if math.isfinite(deviation) else " s")


def _spent(run: WatchedRun) -> Text:
    parts = sorted(shares(run.state.timings), key=lambda part: -part[1])
    if not parts:
        return _unknown()
    text = Text()
    for name, share in parts:
        text.append(f"{name} ", "").append(f"{share:.0%}  ", "bold")
    return text


def _memory(run: WatchedRun) -> Text:
    if not math.isfinite(run.state.memory_gib):
        return _unknown() if run.state.log else _unknown("no log line yet")
    value, total = strong(f"{run.state.memory_gib:.2f}"), run.state.device_gib
    return value.append(f" of {total:.1f} GiB" if total > 0 else " GiB")


def _gpu(run: WatchedRun) -> Text:
    machine = run.machine
    if machine is None:
        return _unknown()
    if not has_gpu(machine):
        parts = [("CPU ", machine.cpu_utilization, "{:.0f} %"), ("RAM ", machine.ram_used_gib, "{:.1f}")]
        total = f"/{machine.ram_total_gib:.1f} GiB" if math.isfinite(machine.ram_total_gib) else ""
    else:
        parts = [
            ("", machine.gpu_utilization, "{:.0f} %"),
            ("", machine.gpu_temperature_c, "{:.0f} °C"),
            ("", machine.gpu_power_w, "{:.0f} W"),
        ]
        total = ""
    known = [f"{name}{form.format(value)}" for name, value, form in parts if math.isfinite(value)]
    return Text("  ".join(known), "bold").append(total, "not bold") if known else _unknown()


def _gpu_meaning(run: WatchedRun) -> str:
    if run.machine is None:
        return "the log says nothing of the machine"
    if not has_gpu(run.machine):
        return "no GPU: the whole box"
    return "of this machine, not of the log" if run.machine is run.local else "busy, temperature, power"


def _tokens(run: WatchedRun) -> Text:
    if run.state.log is None or not run.state.log.num_tokens:
        return _unknown() if run.state.log else _unknown("no log line yet")
    finished = run.state.finished
    seen = max(run.state.log.num_tokens, finished.num_tokens if finished else 0)  # the last steps may have no log line
    return strong(count(seen)).append(" seen")


def _checkpoint(run: WatchedRun) -> Text:
    saved, resumed = run.state.checkpoint, run.state.resumed
    if saved is not None:
        return strong(f"step {saved.step:,}").append(f"  {count(saved.bytes)}B")
    if resumed is not None:
        return strong(f"step {resumed.step:,}").append("  resumed")
    return _unknown("none yet") if run.state.ours else _unknown()


def _checkpoint_meaning(run: WatchedRun) -> str:
    if not (run.state.ours or run.state.checkpoint or run.state.resumed):
        return "what a crash leaves; this log does not tell"
    return "the run is done" if run.state.status == "done" else "a crash costs the steps since then"


LEARNING = (
    Metric("loss", "loss", _loss, _loss_meaning, answers.LOSS, answer_of_pairs=answers.LOSS_OF_PAIRS),
    Metric("eval", "eval loss", _eval, _eval_meaning, answers.EVAL, answer_of_pairs=answers.EVAL_OF_PAIRS),
    Metric("band", "in words", _band, _band_meaning, answers.BAND, answer_of_pairs=answers.BAND_OF_PAIRS),
    Metric("best", "best", _best, lambda run: "the lowest loss of a log line", answers.BEST, pairs=False),
    Metric("mean", "mean", _mean, _mean_meaning, answers.MEAN, pairs=False),
    Metric("accuracy", "accuracy", _accuracy, lambda run: "pairs with the chosen answer ahead; 50% is chance",
           answers.ACCURACY, pairs=True),
    Metric("margin", "margin", _margin, _margin_meaning, answers.MARGIN, pairs=True),
    Metric("slope", "trend", _slope, _slope_meaning, answers.SLOPE),
    Metric("learning_rate", "learn rate", _learning_rate, lambda run: "how far one step moves the weights",
           answers.LEARNING_RATE),
    Metric("gradient", "gradient", _gradient, lambda run: "how strongly the data pulls", answers.GRADIENT),
)  # fmt: skip
MACHINE = (
    Metric("left", "time left", _left, _left_meaning, answers.LEFT, timed=True),
    Metric("speed", "speed", _speed, lambda run: "prompts included, padding excluded", answers.SPEED),
    Metric("step", "a step", _step, lambda run: "mean ± deviation of the latest steps", answers.STEP),
    Metric("spent", "spent on", _spent, lambda run: "where the seconds of a step go", answers.SPENT),
    Metric("memory", "memory", _memory, lambda run: "the most held at once so far", answers.MEMORY),
    Metric("gpu", "machine", _gpu, _gpu_meaning, answers.GPU),
    Metric("tokens", "tokens", _tokens, lambda run: "prompts included, padding excluded", answers.TOKENS),
    Metric("checkpoint", "checkpoint", _checkpoint, _checkpoint_meaning, answers.CHECKPOINT),
)
METRICS = {metric.key: metric for metric in (*LEARNING, *MACHINE)}
