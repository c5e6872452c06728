"""A scripted run and hypothesis strategies for events, for the tests of sinks and views."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hypothesis import strategies as st

from luthier.events.types import (
    Architecture,
    Checked,
    CheckpointSaved,
    Evaluated,
    Event,
    Gradients,
    Log,
    Machine,
    Notice,
    Resumed,
    RunFinished,
    RunStarted,
    Sampled,
    TimeForecast,
    Timing,
)

ESCAPES = "\x1b[31mred\x1b]0;title\x07 \x9b2J\r\x08\u202ebidi\ud800"

MODULES = [
    {"name": "", "type": "PeftModel", "parameters": 0, "trainable": 0, "shape": ""},
    {"name": "embed", "type": "Embedding", "parameters": 1000, "trainable": 0, "shape": "100 x 10"},
    {"name": "layers.0", "type": "Layer", "parameters": 0, "trainable": 0, "shape": ""},
    {"name": "layers.0.q_proj.base_layer", "type": "Linear", "parameters": 100, "trainable": 0, "shape": "10 x 10"},
    {"name": "layers.0.q_proj.lora_A", "type": "Linear", "parameters": 20, "trainable": 20, "shape": "2 x 10"},
    {"name": "layers.1", "type": "Layer", "parameters": 0, "trainable": 0, "shape": ""},
    {"name": "layers.1.q_proj.base_layer", "type": "Linear", "parameters": 100, "trainable": 0, "shape": "10 x 10"},
    {"name": "layers.1.q_proj.lora_A", "type": "Linear", "parameters": 20, "trainable": 20, "shape": "2 x 10"},
]

PLAN = {
    "model.model_name_or_path": "meta-llama/Llama-3.2-1B",
    "training.learning_rate": 2e-4,
    "training.lr_scheduler_type": "cosine",
    "training.max_grad_norm": 1.0,
    "training.max_steps": None,
    "quantization.load_in_4bit": True,
    "machine.memory_gib": 8.0,
}


def started(first_step: int = 0, total_steps: int = 100) -> RunStarted:
    return RunStarted(run="run-1a2b", total_steps=total_steps, first_step=first_step, epochs=3.0, plan=PLAN)


def log(step: int, loss: float = 1.5, total_steps: int = 100) -> Log:
    return Log(
        step=step,
        epoch=3 * step / total_steps,
        loss=loss,
        grad_norm=0.912345,
        learning_rate=0.00019998,
        num_tokens=3520 * step,
        tokens_per_second=1234.4,
        trained_tokens_per_second=600.0,
        step_seconds=0.4,
        memory_gib=2.314,
        remaining_seconds=(total_steps - step) * 0.4,
    )


def forecast(step: int = 0, **changes: float) -> TimeForecast:
    values = {"remaining_seconds": 7800.0, "ends_at": 1_767_225_600.0, "steps": 3315 - step, "step_seconds": 2.1,
              "evaluations": 12, "eval_seconds": 20.0, "saves": 13, "save_seconds": 0.3, "samples": 0,
              "sample_seconds": math.nan, "epoch_seconds": 2600.0, "fitted_steps": 0, "error": math.nan}  # fmt: skip
    return TimeForecast(step, **{**values, **changes})  # type: ignore[arg-type]


def evaluated(step: int, loss: float, best: bool = True) -> Evaluated:
    return Evaluated(step=step, epoch=3 * step / 100, eval_loss=loss, eval_tokens=500, eval_runtime=1.234, best=best)


def gradients(step: int) -> Gradients:
    buckets = {
        "weights/layers.0.q_proj.lora_A": [-0.1, 0.1, 3.0, 5.0],
        "weights/layers.0.q_proj.lora_B": [0.0, 0.0, 8.0, 0.0],
    }
    return Gradients(step=step, norms={"layers.0.q_proj": 0.25}, buckets=buckets)


def finished(status: str = "done", step: int = 100) -> RunFinished:
    return RunFinished(
        status=status,  # type: ignore[arg-type]
        step=step,
        epoch=3.0,
        train_loss=1.2,
        train_runtime=40.0,
        num_tokens=352_000,
        peak_memory_gib=2.5,
        final_model="checkpoints/final_model" if status == "done" else "",
        reason="" if status == "done" else "a signal came",
    )


def whole_run(hostile: str = ESCAPES) -> Iterator[Event]:
    """Every kind of event, with text that tries to leave its place."""
    yield started()
    yield Architecture(parameters=1240, trainable_parameters=40, modules=MODULES)
    yield Notice(severity="info", text=f"rows left out {hostile}")
    yield Checked("one-bos", "passed", "<s> stands once in each of 9 rows")
    yield Checked("rows-cut", "warning", f"1 of 9 rows {hostile}", "write", "data.max_seq_length: 99")
    yield Checked("duplicates", "allowed", f"{hostile}", f"keep one {hostile}")
    yield forecast()
    yield Sampled(step=0, prompt="Add two numbers.", text=f"``` {hostile}\n````\nend")
    for step in range(10, 101, 10):
        yield log(step, 2.5 * math.exp(-step / 60))
        yield Timing(step, 0.01, 0.2, 0.15, 0.03, 0.01)
        yield Machine(step, math.nan, math.nan, math.nan, math.nan, math.nan, 40.0, 3.0, 8.0, 100.0)
        if step % 50 == 0:
            yield gradients(step)
            yield evaluated(step, 1.0 + step / 1000, best=step == 50)
            yield CheckpointSaved(step=step, path=f"checkpoint-{step}", bytes=1_000_000, seconds=0.1, removed=["old"])
    yield Notice(severity="warning", text=f"eval loss rises {hostile}", change="training.num_train_epochs: 1", step=100)
    yield Resumed(step=100, path=f"checkpoint-100{hostile}", passed_over=["checkpoint-110: torn"])
    yield Sampled(step=100, prompt=f"Add {hostile}", text="def add(a, b):\n\treturn a + b")
    yield finished()


numbers = st.floats() | st.floats(0, 10)
counts = st.integers(0, 10**12)
texts = st.text(st.characters(), max_size=30)
json_values = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | texts

_severities = st.sampled_from(["info", "warning", "critical"])
_verdicts = st.sampled_from(["passed", "warning", "failed", "allowed"])
_modules = st.fixed_dictionaries({"name": texts, "type": texts, "parameters": counts, "trainable": counts})
_statuses = st.sampled_from(["done", "stopped", "failed"])
_buckets = st.lists(numbers, min_size=3, max_size=5)

events = st.one_of(
    st.builds(
        RunStarted,
        run=texts,
        total_steps=counts,
        first_step=counts,
        epochs=numbers,
        plan=st.dictionaries(texts, json_values.filter(lambda value: value not in (float("inf"), -float("inf")))),
    ),
    st.builds(Notice, severity=_severities, text=texts, change=texts, step=st.none() | counts),
    st.builds(Checked, texts, _verdicts, texts, texts, texts),
    st.builds(Architecture, parameters=counts, trainable_parameters=counts, modules=st.lists(_modules, max_size=3)),
    st.builds(TimeForecast, counts, numbers, numbers, *[counts, numbers] * 4, numbers, counts, numbers),
    st.builds(Log, counts, *[numbers] * 4, counts, *[numbers] * 5),
    st.builds(Timing, counts, *[numbers] * 5),
    st.builds(Machine, counts, *[numbers] * 9),
    st.builds(Gradients, counts, st.dictionaries(texts, numbers), st.dictionaries(texts, _buckets)),
    st.builds(Evaluated, counts, numbers, numbers, counts, numbers, st.booleans()),
    st.builds(Sampled, counts, texts, texts),
    st.builds(CheckpointSaved, counts, texts, counts, numbers, st.lists(texts)),
    st.builds(Resumed, counts, texts, st.lists(texts)),
    st.builds(RunFinished, _statuses, counts, numbers, numbers, numbers, counts, numbers, texts, texts),
)
