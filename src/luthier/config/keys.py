"""The index of all keys: what each expects, in words, for error messages and the reference page.

Everything is read from `luthier.config.schema`; only values to start from, for keys whose default says nothing, are
written down here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from typing import Any

from luthier.config.schema import Config, DatasetSource, Section
from luthier.config.tree import number, shown

SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}

PATH_KEYS = frozenset(
    {
        "model.model_name_or_path",
        "model.tokenizer_name_or_path",
        "data.prompt_template",
        "data.cache_dir",
        "training.output_dir",
        "checkpointing.resume_from_checkpoint",
        "logging.logging_dir",
    }
)
"""Keys that can hold a path (so does `path` of a dataset): ``~`` and ``${NAME}`` are expanded in them."""

_TYPICAL: dict[str, Any] = {
    "model.revision": "main",
    "model.tokenizer_name_or_path": "meta-llama/Llama-3.2-1B",
    "lora.modules_to_save": ["lm_head", "embed_tokens"],
    "data.eval_split": "test",
    "data.cache_dir": "~/.cache/luthier",
    "training.max_steps": 1000,
    "training.warmup_steps": 100,
    "training.max_tokens_per_micro_batch": 4096,
    "training.memory_gib": 6,
    "evaluation.eval_steps": 100,
    "evaluation.per_device_eval_batch_size": 4,
    "evaluation.early_stopping_patience": 3,
    "evaluation.sample_prompts": ["Write a Python function to reverse a string"],
    "checkpointing.resume_from_checkpoint": "auto",
    "logging.logging_dir": "checkpoints/logs",
    "logging.run_name": "first_try",
    "logging.project": "luthier",
    "training.min_learning_rate": 5e-5,
    "data.datasets": [{"path": "train.jsonl"}],
    "source.path": "train.jsonl",
    "source.name": "default",
    "source.revision": "main",
    "source.columns": {"instruction": "text", "output": "code"},
}


@dataclass(frozen=True)
class Key:
    """One key of the YAML.

    Attributes:
        section: Its section; ``source`` for the keys of one dataset.
        name: Its name in the section.
        text: Its documentation, one paragraph.
        default: Its default, plain.
        required: Whether it has none.
        expects: What may stand there, in words.
        choices: The words that may stand there, when they are few.
        typical: A value to start from.
    """

    section: str
    name: str
    text: str
    default: Any
    required: bool
    expects: str
    choices: tuple[str, ...]
    typical: Any

    @property
    def dotted(self) -> str:
        """``section.name``."""
        return f"{self.section}.{self.name}"


@cache
def keys() -> Mapping[str, Key]:
    """Dotted key -> Key, in the order of the schema."""
    return {key.dotted: key for name, section in SECTIONS.items() for key in _keys_of(name, section)}


@cache
def source_keys() -> Mapping[str, Key]:
    """Name -> Key, for the keys of one dataset."""
    return {key.name: key for key in _keys_of("source", DatasetSource)}


@cache
def by_name() -> Mapping[str, str]:
    """Bare key -> dotted key. No two sections share a name (a test holds that)."""
    return {key.name: key.dotted for key in keys().values()}


def closest(word: str, candidates: Mapping[str, float]) -> str | None:
    """The candidate most like `word`, or None when none is near.

    Args:
        word: What was written.
        candidates: Word -> a bonus in likeness (0 to 0.1) for those that are meant more often.
    """
    one_slip = [candidate for candidate in candidates if is_one_slip(word.lower(), candidate.lower())]
    if one_slip:
        return max(one_slip, key=lambda candidate: candidates[candidate])
    best, likeness = None, 0.6 if len(word) > 3 else 0.5
    for candidate, bonus in candidates.items():
        matcher = SequenceMatcher(None, word.lower(), candidate.lower(), autojunk=False)
        if matcher.real_quick_ratio() + bonus <= likeness or matcher.quick_ratio() + bonus <= likeness:
            continue
        ratio = matcher.ratio() + bonus
        if ratio > likeness:
            best, likeness = candidate, ratio
    return best


def is_one_slip(word: str, other: str) -> bool:
    """Whether at most one letter of a longer word was left out, added or changed, or two neighbours swapped."""
    same = next((i for i, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), min(len(word), len(other)))
    a, b = word[same:], other[same:]
    one_letter = a[1:] == b[1:] or a[1:] == b or a == b[1:]
    return len(word) > 1 and (one_letter or (a[:2] == b[1::-1] and a[2:] == b[2:]))


def _keys_of(section: str, model: type[Section]) -> list[Key]:
    schema = model.model_json_schema()
    found = []
    for name, field in model.model_fields.items():
        prop = schema["properties"][name]
        default = None if field.is_required() else _plain(field.get_default(call_default_factory=True))
        typical = _TYPICAL.get(f"{section}.{name}", default)
        found.append(
            Key(
                section=section,
                name=name,
                text=" ".join((field.description or "").split()),
                default=default,
                required=field.is_required(),
                expects=_expects(prop),
                choices=_choices(prop),
                typical=typical,
            )
        )
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.model_dump()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _choices(prop: Mapping[str, Any]) -> tuple[str, ...]:
    if "anyOf" in prop:
        return tuple(choice for option in prop["anyOf"] for choice in _choices(option))
    if "const" in prop:
        return (str(prop["const"]),)
    if "items" in prop:
        return _choices(prop["items"])
    return tuple(map(str, prop.get("enum", ())))


def _expects(prop: Mapping[str, Any]) -> str:
    if "anyOf" in prop:
        return " or ".join(_expects(option) for option in prop["anyOf"])
    if "const" in prop:
        return f"`{prop['const']}`"
    if "enum" in prop:
        return "one of " + ", ".join(f"`{choice}`" for choice in prop["enum"])
    if "$ref" in prop:
        return "datasets, each with a path"
    kind = prop.get("type")
    if kind == "array":
        inner = _expects(prop["items"])
        return f"a list of {inner}"
    return _SIMPLE.get(str(kind), str(kind)) + _range(prop)


_SIMPLE = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "object": "pairs {name: text}",
    "null": "null",
}


def _range(prop: Mapping[str, Any]) -> str:
    low = " of at least " + number(prop["minimum"]) if "minimum" in prop else ""
    low = low or (" above " + number(prop["exclusiveMinimum"]) if "exclusiveMinimum" in prop else "")
    high = "at most " + number(prop["maximum"]) if "maximum" in prop else ""
    high = high or ("below " + number(prop["exclusiveMaximum"]) if "exclusiveMaximum" in prop else "")
    return f"{low} and {high}" if low and high else low + (f" {high}" if high else "")


def line(key: Key, value: Any) -> str:
    """The YAML line that sets `key` to `value`."""
    text = shown(value, 80)
    if isinstance(value, str) and value.replace("-", "").replace("_", "").isalnum() and not value.isdigit():
        text = value
    return f"{key.name}: {text}"
