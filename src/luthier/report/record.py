"""The plan.yaml of a run as a page needs it: what was asked for, what was decided, and why.

The reasons of decisions are not in the file, but what they follow from is: the plan is resolved once more from the
recorded config and facts. Where that gives other values than the recorded ones, as with another version, there are no
reasons on the page.

Not covered: doing the run again (`luthier.config.record`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.config.keys import keys, source_keys
from luthier.config.load import from_dict
from luthier.config.outputs import RECORD
from luthier.config.plan import DataFacts, MachineFacts, ModelFacts, Passes, Plan
from luthier.config.record import read_record
from luthier.config.render import plan_as_dict, plan_in_words
from luthier.config.resolve import resolve
from luthier.config.schema import nested
from luthier.errors import LuthierError

_NO_PLACE = 10_000
_OWN = {"training.output_dir", "logging.logging_dir"}


@dataclass(frozen=True)
class Asked:
    """A key that somebody set to something else than its default.

    Attributes:
        key: Dotted.
        value: Resolved.
        default: Of the schema.
        source: Where it was written.
        text: What the key means.
    """

    key: str
    value: Any
    default: Any
    source: str
    text: str


@dataclass(frozen=True)
class Recorded:
    """A whole plan.yaml.

    Attributes:
        path: The file.
        content: All of it, plain.
        config: Dotted key -> value, in the order of the file.
        plan: Resolved once more; None where that gives other values.
    """

    path: Path
    content: dict[str, Any]
    config: dict[str, Any]
    plan: Plan | None

    @property
    def facts(self) -> dict[str, Any]:
        """Its part `record`."""
        return dict(self.content.get("record") or {})

    @property
    def asked(self) -> list[Asked]:
        """What differs from the defaults because somebody wrote it."""
        sources = self.content.get("sources") or {}
        return [
            Asked(key, told(value), told(known[key].default), str(sources[key]), known[key].text)
            for known in (keys(),)
            for key, value in self.config.items()
            if key in known and sources.get(key, "default") != "default" and value != known[key].default
        ]

    @property
    def decided(self) -> list[tuple[str, Any, str]]:
        """(key, value, reason) of what was left to Luthier; the reason is empty where it is not known."""
        how = {value.key: value.how for value in self.plan.values} if self.plan else {}
        return [(key, self.config[key], how.get(key, "")) for key in self.content["decided"] if key in self.config]

    @property
    def derived(self) -> list[tuple[str, Any, str]]:
        """(name, value, arithmetic)."""
        return [(name, number["value"], str(number["how"])) for name, number in self.content["derived"].items()]

    @property
    def in_words(self) -> list[tuple[str, str]]:
        """(about, sentences): what was planned, as `luthier plan` says it."""
        lines = [line.strip().partition(" ") for line in plan_in_words(self.plan, _NO_PLACE)] if self.plan else []
        # what will be known of the time once it runs is no word about a run
        return [(about, words.strip()) for about, _, words in lines if about != "Time"]


def told(value: Any) -> Any:
    """A value of the config without what data sources leave at its default."""
    if not (isinstance(value, list) and value and all(isinstance(one, dict) for one in value)):
        return value
    known = source_keys()
    return [{k: v for k, v in one.items() if k not in known or v != known[k].default} for one in value]


def recorded(folder: Path) -> tuple[Recorded | None, str]:
    """The record in a run's folder, or None and why."""
    path = folder / RECORD
    if not path.is_file():
        return None, f"there is no {RECORD}"
    try:
        content = read_record(path)
        config = {f"{name}.{key}": value for name, part in content["config"].items() for key, value in part.items()}
        known = Recorded(path, content, config, _resolved(content, config))
        _ = known.asked, known.decided, known.derived, known.facts["inputs"], known.facts["surroundings"]
    except LuthierError as error:
        return None, f"{RECORD} {error.problems[0].found}"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return None, f"{RECORD} lacks {error}"
    return known, ""


def _resolved(content: dict[str, Any], config: dict[str, Any]) -> Plan | None:
    """The plan once more; None where it is not the recorded one."""
    try:
        decided, passes = set(content["decided"]), content["record"]["passes"]
        written = {key: value for key, value in config.items() if key not in decided} | (content.get("asked") or {})
        plan = resolve(
            replace(from_dict(nested(written)), sources=content["sources"]),
            MachineFacts(**content["machine"]),
            ModelFacts(**content["model"]) if content["model"] else None,
            DataFacts(**content["data"]) if content["data"] else None,
            passes=Passes(**passes, how=content["derived"]["max_tokens_per_micro_batch"]["how"]),
        )
    except (LuthierError, KeyError, TypeError):
        return None
    again = plan_as_dict(plan)
    return plan if all(again.get(key) == value for key, value in config.items() if key not in _OWN) else None
