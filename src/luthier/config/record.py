"""The config of a run that was, out of its plan.yaml, to do the run again.

    config     as resolved. What the machine decided stays decided (dtype, packing, tokens of a pass, ...); what follows
               from other keys (warmup steps, evaluation steps, ...) is derived anew, so that it follows overrides
    asked      what the user wrote where `config` has what was made of it: `save_steps: epoch`
    record     versions, hashes, passes: what the new run is compared with (`luthier.training.record`)
    sha256     of all lines above it; a record that was changed is refused

Not covered: comparing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.config.load import Loaded, Record, build, read_text
from luthier.config.outputs import RECORD
from luthier.config.placing import place_settings
from luthier.config.plan import Passes
from luthier.config.tree import Node, printable, read_yaml
from luthier.errors import ConfigError, Problem

VERSION = 1
_SEAL = "sha256: "
_BY_THE_MACHINE = frozenset(
    {"model.dtype", "training.optim", "training.packing", "training.lean_path", "training.max_tokens_per_micro_batch"}
)
_PASSES = ("micro_batch_tokens", "checkpointed_layers", "unpack_once")
_NOT_AGAIN = ("checkpointing.resume_from_checkpoint",)


def seal(text: str) -> str:
    """The text with its hash as the last line."""
    return f"{text}{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n"


def load_record(path: Path | str, overrides: Sequence[str] = ()) -> Loaded:
    """Load the record of a run.

    Args:
        path: A plan.yaml, or the folder of the run.
        overrides: ``key=value``. Without one for `output_dir` it is the recorded one with ``-again``.

    Raises:
        ConfigError: E-CFG-040 for what is no whole record, else as `luthier.config.load.load`.
    """
    path = Path(path)
    path = path / RECORD if path.is_dir() else path
    shown, root = printable(str(path)), _root(path)
    parts = root.value if isinstance(root.value, dict) else {}
    try:
        facts = parts["record"].plain()
        tokens, layers, once = (facts["passes"][name] for name in _PASSES)
        lowered = bool(facts["passes"].get("lowered"))
        passes = Passes(int(tokens), int(layers), bool(once), "as recorded", lowered)
        decided = set(parts["decided"].plain())
        asked = parts["asked"].value if "asked" in parts else {}
        places = {key: node.place for key, node in parts["config"].value["training"].value.items()}
        then = {**parts["config"].value}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_record(f"lacks {printable(str(error))[:80]}", shown) from None
    settings = Node({name: _section(name, node, decided, asked, facts) for name, node in then.items()}, shown)
    loaded = build(place_settings(settings), overrides, path)
    changed = tuple(key for key, source in loaded.sources.items() if source == "override")
    if {"training.max_tokens_per_micro_batch", "training.memory_gib"} & {*changed}:
        passes = replace(passes, lowered=False)
    record = Record(path, facts, passes, changed)
    if "training.output_dir" not in changed:
        again = f"{loaded.config.training.output_dir}-again"
        config = loaded.config.with_values({"training.output_dir": again})
        sources = {**loaded.sources, "training.output_dir": f"{places['output_dir']}, and -again"}
        loaded = replace(loaded, config=config, sources=sources)
    return replace(loaded, record=record)


def read_record(path: Path) -> dict[str, Any]:
    """Everything in a plan.yaml as plain values.

    Raises:
        ConfigError: E-CFG-040 for what is no whole record, else as `luthier.config.load.read_text`.
    """
    content = _root(path).plain()
    if not isinstance(content, dict):
        raise _no_record("is no mapping", printable(str(path)))
    return content


def _root(path: Path) -> Node:
    shown = printable(str(path))
    return read_yaml(_unsealed(read_text(path).replace("\r\n", "\n"), shown), lambda number: f"{shown}:{number}")


def _unsealed(text: str, shown: str) -> str:
    """The text above the seal."""
    body, found, rest = text.rpartition(f"\n{_SEAL}")
    body += "\n"
    if not found:
        raise _no_record("has no sha256 in its last line", shown)
    if seal(body) != f"{body}{_SEAL}{rest.strip()}\n":
        raise _no_record("was changed since it was written", shown)
    return body


def _section(name: str, node: Node, decided: set[Any], asked: dict[str, Node], facts: dict[str, Any]) -> Node:
    """A section of the config as it is to be loaded: without what is derived anew."""
    if not isinstance(node.value, dict):
        return node
    auto = "auto" not in node.value or node.value["auto"].value is True
    kept: dict[str, Node] = {}
    for key, item in node.value.items():
        dotted = f"{name}.{key}"
        if dotted in asked and dotted not in _BY_THE_MACHINE:
            kept[key] = asked[dotted]
            continue
        if dotted in _NOT_AGAIN or (dotted in decided and not (dotted in _BY_THE_MACHINE and auto)):
            continue
        took = facts.get("lean_path")
        kept[key] = Node(took, item.place) if dotted == "training.lean_path" and dotted in decided else item
    return Node(kept, node.place)


def _no_record(found: str, shown: str) -> ConfigError:
    fix = "name the plan.yaml of a run, as it was written; what should be different goes behind it: KEY=VALUE"
    return ConfigError(Problem("E-CFG-040", found, fix, shown))
