"""Config and facts to a Plan: every ``auto`` replaced, every number derived, every rule checked.

Not covered: how many tokens fit into memory; the caller measures that and passes it in.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from luthier.config.advice import ADVICE
from luthier.config.keys import keys
from luthier.config.lean import computes_in, decide_passes
from luthier.config.load import Loaded
from luthier.config.numbers import REHEARSED_FROM, UNKNOWN_DATA, UNKNOWN_MEMORY, Number, Numbers, derive
from luthier.config.plan import DataFacts, MachineFacts, ModelFacts, Passes, Plan, Value
from luthier.config.rules import RULES, Case, check
from luthier.config.schema import Config
from luthier.errors import ConfigError

Decision = tuple[Any, str]
"""A value in place of ``auto`` (or of a default that depends), and the reason."""
WAITING = frozenset(
    f"training.{name}"
    for name in ("packing", "lean_path", "gradient_checkpointing", "max_tokens_per_micro_batch", "rehearsal")
)
"""Keys whose ``auto`` stays until model and rows are known."""


def resolve(
    loaded: Loaded,
    machine: MachineFacts,
    model: ModelFacts | None,
    data: DataFacts | None,
    *,
    passes: Passes | None = None,
) -> Plan:
    """Compute the plan of a run.

    Args:
        loaded: A loaded config.
        machine: Facts about this box.
        model: Facts about the model; None before it is there.
        data: Facts about the rows; None before they are counted.
        passes: How a step goes through the model; None while memory is not known.

    Raises:
        ConfigError: With all combinations that cannot work.
    """
    numbers = derive(loaded.config, data, machine.world_size)
    tokens = _tokens(loaded.config, passes, data)
    lowered = passes is not None and passes.lowered  # a row that is longer then has a pass of its own
    case = Case(loaded, machine, model, data, numbers, 0 if lowered else int(tokens.value))
    problems, warnings = check(case, (*RULES, *ADVICE))
    if problems:
        raise ConfigError(*problems)
    layers = _layers(loaded.config, model, passes)
    decisions = _decide(loaded.config, machine, model, numbers, tokens, layers)
    config = loaded.config.with_values({key: value for key, (value, _) in decisions.items()})
    lean = config.training.lean_path is True
    return Plan(
        config=config,
        machine=machine,
        model=model,
        data=data,
        values=_values(config, loaded, decisions, numbers, tokens, layers),
        warnings=(*loaded.notes, *warnings),
        examples_per_step=int(numbers.examples_per_step.value),
        total_steps=int(numbers.total_steps.value),
        steps_per_epoch=numbers.steps_per_epoch.value,
        warmup_steps=int(numbers.warmup_steps.value),
        decay_steps=int(numbers.decay_steps.value),
        eval_every=int(numbers.eval_every.value),
        save_every=int(numbers.save_every.value),
        log_every=int(numbers.log_every.value),
        passes=Passes(
            micro_batch_tokens=int(tokens.value),
            checkpointed_layers=int(layers.value),
            unpack_once=lean and passes is not None and passes.unpack_once,
            how=tokens.how,
            lowered=lowered,
        ),
        share_beginnings=lean and machine.device == "cpu" and model is not None and not model.has_sliding_window,
    )


def _tokens(config: Config, passes: Passes | None, data: DataFacts | None) -> Number:
    t = config.training
    if not t.auto:
        rows = max(t.per_device_train_batch_size, config.evaluation.per_device_eval_batch_size or 1)
        if data is None:
            return UNKNOWN_DATA
        longest = data.largest_example_tokens
        return Number(rows * longest, f"auto is false: {rows:,} {data.unit} of at most {longest:,} tokens")
    wanted = t.max_tokens_per_micro_batch
    if passes is not None and passes.lowered:
        return Number(passes.micro_batch_tokens, passes.how)
    if wanted != "auto":
        return Number(wanted, f"max_tokens_per_micro_batch = {wanted:,} tokens")
    if passes is None:
        return UNKNOWN_MEMORY
    return Number(
        passes.micro_batch_tokens, passes.how or f"{passes.micro_batch_tokens:,} tokens, derived from free memory"
    )


def _layers(config: Config, model: ModelFacts | None, passes: Passes | None) -> Number:
    wanted = config.training.gradient_checkpointing
    if passes is not None and passes.lowered:
        return Number(passes.checkpointed_layers, passes.layers_how)
    if wanted is False or (wanted == "auto" and not config.training.auto):
        return Number(0, f"gradient_checkpointing: {'false' if wanted is False else 'auto, but auto is false'}")
    if wanted is True and model is not None:
        return Number(model.layers, "gradient_checkpointing: true")
    if passes is None:
        return UNKNOWN_MEMORY
    return Number(passes.checkpointed_layers, passes.layers_how)


def _decide(
    config: Config,
    machine: MachineFacts,
    model: ModelFacts | None,
    numbers: Numbers,
    tokens: Number,
    layers: Number,
) -> dict[str, Decision]:
    """What stands in place of each ``auto``; keys whose facts are missing are left out."""
    t, e = config.training, config.evaluation
    made: dict[str, Decision] = decide_passes(config, machine, model) | _rehearsal(config, numbers)
    made |= _intervals(config, numbers) | _without_evaluation(config, numbers)
    if t.gradient_checkpointing == "auto" and layers.known:
        made["training.gradient_checkpointing"] = (layers.value > 0, layers.how)
    if config.model.dtype == "auto":
        made["model.dtype"] = _dtype(config, machine)
    if t.optim == "auto":
        made["training.optim"] = ("adamw_torch_fused", "fused AdamW, exact and fast on every device")
    if t.max_tokens_per_micro_batch == "auto" and tokens.known:
        made["training.max_tokens_per_micro_batch"] = (int(tokens.value), tokens.how)
    if t.warmup_steps is None and numbers.warmup_steps.known:
        made["training.warmup_steps"] = (int(numbers.warmup_steps.value), numbers.warmup_steps.how)
    if e.per_device_eval_batch_size is None:
        reason = "as per_device_train_batch_size"
        made["evaluation.per_device_eval_batch_size"] = (t.per_device_train_batch_size, reason)
    if config.logging.logging_dir is None:
        made["logging.logging_dir"] = (str(PurePath(t.output_dir, "logs")), "`logs` in output_dir")
    return made


def _intervals(config: Config, numbers: Numbers) -> dict[str, Decision]:
    """Shares of the run, epochs and the default of eval_steps, in steps."""
    intervals = {
        "evaluation.eval_steps": (config.evaluation.eval_steps, numbers.eval_every),
        "checkpointing.save_steps": (config.checkpointing.save_steps, numbers.save_every),
        "logging.logging_steps": (config.logging.logging_steps, numbers.log_every),
    }
    return {
        key: (int(every.value), every.how)
        for key, (wanted, every) in intervals.items()
        if not isinstance(wanted, int) and every.known
    }


def _without_evaluation(config: Config, numbers: Numbers) -> dict[str, Decision]:
    """What compares evaluations, where there are none."""
    made: dict[str, Decision] = {}
    if numbers.eval_every.value or not numbers.eval_every.known:
        return made
    if config.evaluation.load_best_model_at_end:
        made["evaluation.load_best_model_at_end"] = (False, "nothing is evaluated, so the last weights are kept")
    if config.evaluation.early_stopping_patience:
        made["evaluation.early_stopping_patience"] = (None, "nothing is evaluated, so nothing stops the run early")
    return made


def _rehearsal(config: Config, numbers: Numbers) -> dict[str, Decision]:
    if config.training.rehearsal != "auto" or not numbers.total_steps.known:
        return {}
    steps = int(numbers.total_steps.value)
    pays = steps >= REHEARSED_FROM
    how = f"{steps:,} steps: {'less' if pays else 'more'} than a twentieth of the run"
    return {"training.rehearsal": (pays, how)}


def _dtype(config: Config, machine: MachineFacts) -> Decision:
    how = {
        "bfloat16": "computes bfloat16",
        "float16": "computes no bfloat16",
        "float32": "has no fast 16-bit arithmetic",
    }
    chosen = computes_in(config, machine)
    return chosen, f"{machine.device_name} {how[chosen]}"


def _values(
    config: Config,
    loaded: Loaded,
    decisions: dict[str, Decision],
    numbers: Numbers,
    tokens: Number,
    layers: Number,
) -> tuple[Value, ...]:
    values = []
    for key in keys():
        value = config.value(key)
        value = [item.model_dump() for item in value] if key == "data.datasets" else value
        known = value != "auto" or key not in WAITING
        how = decisions[key][1] if key in decisions else "" if known else "unknown yet"
        asked = loaded.config.value(key) if key in decisions else None
        counted = isinstance(asked, str | float) and asked != "auto"
        values.append(Value(key, value, loaded.sources[key], how, asked if counted else None, known))
    derived = {**vars(numbers), "max_tokens_per_micro_batch": tokens, "checkpointed_layers": layers}
    for name, number in derived.items():
        value = number.value if name == "steps_per_epoch" else int(number.value)
        values.append(Value(name, value, "derived", number.how, known=number.known))
    return tuple(values)
