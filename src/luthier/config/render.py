"""A Plan as text for people, as a flat dict for events, and as YAML for ``plan.yaml``.

Plain text, in the width that there is: what will happen in sentences, then every value with its origin, then warnings.
The forecast of memory is a stacked bar of its parts, which are told apart by marks, not by colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import yaml

from luthier.config.keys import SECTIONS
from luthier.config.numbers import LEAST_KEPT, steps_in_words
from luthier.config.plan import Memory, Plan, Value
from luthier.config.schema import nested
from luthier.config.tree import number, scalar, shown
from luthier.errors.secrets import hide, hide_in
from luthier.errors.terminal import WIDTH, wrapped

_MARKS = "123456789abcdef"
_NAME, _BAR = 14, 74
_ELSEWHERE = (
    "A prediction for {}, which is not here: its memory is that of the datasheet, all of it free, and what a run holds "
    "there is computed from shapes. No number below was measured on such a card."
)


def render_plan(plan: Plan, width: int = WIDTH, *, values: bool = True) -> str:
    """The plan as plain text.

    Args:
        plan: The plan.
        width: Columns, at least 60.
        values: Also list every value with its origin.
    """
    blocks = [] if plan.machine.is_here else [_wrapped(_ELSEWHERE.format(plan.machine.device_name), "", "", width), ""]
    blocks += ["What will happen", *plan_in_words(plan, width)]
    if plan.memory:
        blocks += ["", "Memory", *memory_bar(plan.memory, width)]
    if values:
        blocks += _every_value(plan, width)
    if plan.warnings:
        blocks += ["", "Worth a look"]
        blocks += [_wrapped(warning, "  - ", "    ", width) for warning in plan.warnings]
    return hide("\n".join(blocks))


def _every_value(plan: Plan, width: int) -> list[str]:
    lines = ["", "Every value, and where it comes from"]
    for section in SECTIONS:
        lines += [f"  {section}", *(_row(v, width) for v in plan.values if v.key.startswith(f"{section}."))]
    return [*lines, "  derived", *(_row(value, width) for value in plan.values if not value.is_key)]


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """Dotted key -> plain value, and the derived numbers as ``plan.total_steps`` and so on."""
    machine = {f"machine.{name}": value for name, value in asdict(plan.machine).items()}
    flat = {value.key if value.is_key else f"plan.{value.key}": _plain(value.value) for value in plan.values}
    return flat | machine


def dump_plan_yaml(plan: Plan, extra: Mapping[str, Any] | None = None) -> str:
    """The text of ``plan.yaml``: the resolved config, derived numbers with their arithmetic, origins and facts.

    Args:
        plan: The plan.
        extra: More top-level entries, for example versions and hashes.
    """
    keys = [value for value in plan.values if value.is_key]
    derived = [value for value in plan.values if not value.is_key]
    content = {
        "config": nested({value.key: _plain(value.value) for value in keys}),
        "derived": {value.key: {"value": _plain(value.value), "how": value.how} for value in derived},
        "decided": [value.key for value in keys if value.how and value.known],
        "asked": {value.key: value.asked for value in keys if value.asked is not None},
        "sources": {value.key: value.source for value in keys},
        "machine": asdict(plan.machine),
        "model": asdict(plan.model) if plan.model else None,
        "data": asdict(plan.data) if plan.data else None,
        "warnings": list(plan.warnings),
        **_plain(dict(extra or {})),
    }
    return yaml.dump(hide_in(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def dump_config_yaml(written: Mapping[str, Mapping[str, Any]]) -> str:
    """A config as the YAML that a user would write: section -> key -> value; empty sections are left out."""
    content = {section: dict(values) for section, values in written.items() if values}
    return yaml.dump(hide_in(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Quotes text that the reader of configs would take for a number, such as 1e5."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if scalar(text) == text else "'")


_Dumper.add_representer(str, _text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _row(value: Value, width: int) -> str:
    name = value.key.partition(".")[2] or value.key
    text = value.value if isinstance(value.value, str) else shown(value.value, 200)
    if isinstance(value.value, float) and name == "steps_per_epoch":
        text = f"{value.value:,.1f}"
    if not (value.known or value.is_key):
        text = "unknown"
    origin = value.source + (f": {value.how}" if value.how else "") if value.is_key else value.how
    head = f"    {name:<28} "
    if len(text) > 19:
        return f"{_wrapped(text, head, ' ' * len(head), width)}\n{_wrapped(origin, ' ' * 53, ' ' * 53, width)}"
    head += f"{text:<19} "
    return _wrapped(origin, head, " " * len(head), width)


def _wrapped(text: str, first: str, rest: str, width: int) -> str:
    return wrapped(hide(text), first, rest, width)  # before a line may end in the middle of a secret


def memory_bar(memory: Memory, width: int) -> list[str]:
    """The forecast: a bar of its parts, its share of what is free, and a line for each part."""
    room = max(20, min(_BAR, width - 26))
    share = memory.gib / memory.room_gib if memory.room_gib > 0 else float("inf")
    moment = f"in a pass of {memory.tokens:,} tokens" if memory.moment == "a step" else f"while {memory.moment}"
    there = f"training.memory_gib is {memory.room_gib:g}" if memory.asked else f"{memory.room_gib:.1f} GiB are there"
    head = f"{memory.gib:.2f} GiB at the fullest moment, {moment}; {there}."
    head += "" if share <= 1 else " It does not fit."
    lines = textwrap.wrap(head, width, initial_indent="  ", subsequent_indent="  ")
    lines.append(f"  {_stacked(memory, room)}")
    used = min(room, max(1, round(min(share, 1.0) * room)))
    lines.append(f"  {'#' * used}{'.' * (room - used)}  {share:.0%} of {'it' if memory.asked else 'what is there'}")
    for mark, part in zip(_MARKS, memory.parts, strict=False):
        text = f"  {mark} {part.name:<{_NAME}}{part.gib:>7.3f} GiB  {part.how}"
        lines += textwrap.wrap(text, width, subsequent_indent=" " * (17 + _NAME), drop_whitespace=True)
    return lines


def _stacked(memory: Memory, room: int) -> str:
    """Each part's mark, as often as its share says; the ends are rounded, so that the sum is always `room`."""
    text, before = "", 0.0
    for mark, part in zip(_MARKS, memory.parts, strict=False):
        before += part.gib
        text += mark * (round(before / memory.gib * room) - len(text))
    return text


def plan_in_words(plan: Plan, width: int = WIDTH) -> list[str]:
    """What will happen, a few sentences a line; longer ones are wrapped at `width` columns."""
    lines = {
        "Machine": _machine(plan),
        "Model": _model(plan),
        "Training": _trained(plan),
        "Data": _data(plan),
        "Step": _step(plan),
        "Length": f"{plan.value('total_steps').how}.",
        "Time": _time(plan),
        "Schedule": _schedule(plan),
        "Evaluation": _evaluation(plan),
        "Samples": _samples(plan),
        "Checkpoints": _checkpoints(plan),
    }
    return [_wrapped(text, f"  {name:<12} ", " " * 15, width) for name, text in lines.items()]


def _time(plan: Plan) -> str:
    """Seconds are a matter of the machine at work: none are known before something of the run was done."""
    rehearsed = plan.config.training.rehearsal is True and plan.machine.is_here
    when = "before step 1, from the rehearsal of the largest step, and " if rehearsed else ""
    return f"nothing was measured yet; `luthier train` says it {when}after the first steps."


def _machine(plan: Plan) -> str:
    m = plan.machine
    count = f"{m.world_size} x " if m.world_size > 1 else ""
    return f"{count}{m.device_name} ({m.device}), {m.free_memory_gib:.1f} of {m.memory_gib:.1f} GiB free."


def _model(plan: Plan) -> str:
    c = plan.config
    facts = ""
    if plan.model:
        facts = f" ({plan.model.architecture}, {_count(plan.model.parameters)} parameters, {plan.model.layers} layers)"
    if c.model.from_scratch:
        state = "from random weights"
    elif c.quantization.load_in_4bit:
        double = " with double quantization" if c.quantization.bnb_4bit_use_double_quant else ""
        state = f"frozen in 4-bit {c.quantization.bnb_4bit_quant_type}{double}"
    elif c.quantization.base_precision == "fp8":
        state = "frozen in 8-bit floats (e4m3)"
    else:
        state = "frozen" if c.training.finetuning_type == "lora" else "all weights trained"
    return f"{c.model.model_name_or_path}{facts}, {state}, computing in {c.model.dtype}."


def _count(number: int) -> str:
    """1.24 B, 33.2 M, 99,648."""
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if number >= 0.9995 * size:  # what three digits would round up to it
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"


def _every(steps: int) -> str:
    return "every step" if steps == 1 else f"every {steps:,} steps"


def _trained(plan: Plan) -> str:
    c = plan.config
    count = plan.model.trainable_parameters if plan.model else None
    dpo = f"; DPO with beta {number(c.dpo.beta)}" if plan.pairs else ""
    dpo += f" and {number(c.dpo.label_smoothing)} of label smoothing" * bool(dpo and c.dpo.label_smoothing)
    if c.training.finetuning_type == "full":
        size = f"{count:,} in all" if count else "counted once the model can be read"
        return f"every weight, {size}{dpo}."
    size = "trained parameters are counted once the model can be read"
    if count is not None:
        size = f"{count:,} trained parameters"
    if plan.model and count:
        size += f" ({100 * count / (count + plan.model.parameters):.2g} % of base and adapter)"
    scale = c.lora.lora_alpha / (c.lora.r**0.5 if c.lora.use_rslora else c.lora.r)
    targets = c.lora.target_modules if isinstance(c.lora.target_modules, str) else ", ".join(c.lora.target_modules)
    kind = "DoRA" if c.lora.use_dora else "LoRA"
    return f"{kind} of rank {c.lora.r}, scale {number(round(scale, 4))}, on {targets}; {size}{dpo}."


def _data(plan: Plan) -> str:
    paths = ", ".join(source.path for source in plan.config.data.datasets)
    learned = "the answers only are" if plan.config.data.completion_only_loss else "prompts and answers are"
    learned = f"{learned} learned"
    if plan.pairs:
        learned = "the chosen answer of each pair is preferred to the rejected one"
    if plan.data is None:
        return f"{paths}; rows are counted once they can be read; {learned}."
    d = plan.data
    longest, theirs = ("longest answer with its prompt", " are theirs") if d.pairs else ("longest row", "")
    return (
        f"{paths}: {d.train_rows:,} {d.unit} to train on, {d.eval_rows:,} held out, template {d.template}; {learned} "
        f"({d.trained_tokens:,} of {d.train_tokens:,} tokens an epoch{theirs}); "
        f"{longest} {d.longest_row_tokens:,} tokens."
    )


def _step(plan: Plan) -> str:
    packed = plan.config.training.packing
    how = "packed end to end, each blind to the others" if packed else "padded to the longest"
    if packed == "auto":
        how = "packed if the model can keep documents apart"
    tokens = plan.max_tokens_per_micro_batch
    passes = f"at most {tokens:,} tokens a pass" if tokens else "as many tokens a pass as memory allows"
    again = f", {plan.checkpointed_layers:,} layers computed again for the backward pass" * bool(
        plan.checkpointed_layers
    )
    kernels = plan.machine.device == "cuda" and plan.config.training.kernels
    lean = "the lean path, on its kernels" if kernels else "the lean path"
    path = {True: lean, False: "peft's layers", "auto": f"{lean} where it is exact"}
    through = f"; {path[plan.config.training.lean_path]}" * (plan.config.training.finetuning_type == "lora")
    in_8_bits = plan.config.quantization.base_precision == "fp8"
    held = "8-bit weights also transposed" if in_8_bits else "4-bit weights unpacked once and kept"
    kept = f", {held}" * plan.unpack_once
    return f"{plan.value('examples_per_step').how}, {how}; {passes}{again}{through}{kept}."


def _schedule(plan: Plan) -> str:
    t = plan.config.training
    peak, floor = number(t.learning_rate), number(t.min_learning_rate)
    rise = f"rises to {peak} over {steps_in_words(plan.warmup_steps)}" if plan.warmup_steps else f"starts at {peak}"
    if not plan.value("warmup_steps").known:
        rise = f"rises to {peak} over {number(100 * t.warmup_ratio)} % of the steps"
    fall = {
        "cosine": f"then falls along a cosine to {floor}",
        "linear": f"then falls in a line to {floor}",
        "constant": "and stays there",
        "wsd": f"stays, and falls to {floor} over the last {steps_in_words(plan.decay_steps)}",
    }[t.lr_scheduler_type]
    return f"the learning rate {rise}, {fall}; {t.optim}."


def _evaluation(plan: Plan) -> str:
    every = plan.value("eval_every")
    if not plan.eval_every:
        return f"none: {every.how}." if every.known else f"{every.how}."
    e = plan.config.evaluation
    best = "the weights with the lowest eval_loss" if e.load_best_model_at_end else "the last weights"
    stop = f"; stops after {e.early_stopping_patience} without a better one" if e.early_stopping_patience else ""
    return f"{_every(plan.eval_every)} and at the end; {best} become final_model{stop}."


def _samples(plan: Plan) -> str:
    e = plan.config.evaluation
    if not e.sample_prompts:
        return "none (sample_prompts is empty)."
    steps = [f"{step:,}" for step in e.sample_steps if not plan.total_steps or step < plan.total_steps]
    when = f"steps {', '.join(steps)} and the last" if steps else "the last step"
    prompts = "1 prompt" if len(e.sample_prompts) == 1 else f"{len(e.sample_prompts)} prompts"
    return f"{prompts} at {when}, up to {e.sample_max_new_tokens} tokens each."


def _checkpoints(plan: Plan) -> str:
    c = plan.config.checkpointing
    keep = c.save_total_limit
    kept = "all are kept" if keep is None else f"the newest {max(keep, LEAST_KEPT)} and the best are kept"
    if keep is not None and keep < LEAST_KEPT:
        kept += f" ({LEAST_KEPT} whole ones always stay)"
    also = [
        "after step 1" if plan.save_every and c.save_first_step else "",
        "after each best evaluation" if plan.eval_every and plan.config.evaluation.load_best_model_at_end else "",
        f"when the last is {number(c.save_minutes)} minutes old" if plan.save_every and c.save_minutes else "",
    ]
    besides = ", ".join(words for words in also if words)
    every = f"{_every(plan.save_every)} and at the end" if plan.save_every else "at the end" + " only" * (not besides)
    every += f", also {besides}" * bool(besides)
    if not (steps := plan.value("save_every")).known:
        every = f"save_steps: {c.save_steps}, in steps {steps.how}"
    return f"{every}, in {plan.config.training.output_dir}; {kept}."
