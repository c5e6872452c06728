"""Events as JSON records: the lines of events.jsonl, in both directions.

A record is one flat JSON object, its envelope first: `{"event": "log", "time": 1767225600.0, "attempt": "3f2a…",
"step": 10, "loss": 2.451, …}`. JSON has no NaN and no Infinity, so a float that is one becomes the string "NaN",
"Infinity" or "-Infinity", and becomes a float again wherever the event's type says float.

Reading is lenient towards newer versions (an event kind or a field that this version does not know is kept aside) and
strict about what it knows: a field of the wrong type makes the record unreadable, so nothing behind it has to check.

Not covered: files (`luthier.events.read`, `luthier.events.sinks.jsonl`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from luthier.events.types import EVENTS, Event

ENVELOPE = ("event", "time", "attempt")

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""One object for each, so that what holds them is equal to what was read before."""


@dataclass(frozen=True)
class Unknown(Event):
    """An event of a kind that this version does not know."""

    kind: ClassVar[str] = "unknown"
    name: str
    """Its kind, as written."""
    fields: dict[str, Any]


def to_record(event: Event, *, time: float, attempt: str) -> dict[str, Any]:
    """The event as a dict that `json.dumps(..., allow_nan=False)` accepts.

    Args:
        event: Any event.
        time: When it happened, in epoch seconds.
        attempt: Which start of the run it belongs to.
    """
    record = {"event": event.kind, "time": time, "attempt": attempt}
    if isinstance(event, Unknown):
        return record | {"event": event.name} | {key: _encode(value) for key, value in event.fields.items()}
    return record | {field.name: _encode(getattr(event, field.name)) for field in fields(event)}


def from_record(record: Mapping[str, Any]) -> tuple[Event, dict[str, Any]]:
    """The event of a record, and what surrounds it.

    Returns:
        The event (`Unknown` for a kind of another version), and a dict of its `time` and `attempt` with, besides them,
        the fields that this version does not know.

    Raises:
        ValueError: The record has no kind, lacks a field, or a field has the wrong type.
    """
    kind = record.get("event")
    if not isinstance(kind, str):
        raise ValueError("a record without an event kind")
    about: dict[str, Any] = {
        "time": _decode(float, record.get("time", 0.0), "time"),
        "attempt": _decode(str, record.get("attempt", ""), "attempt"),
    }
    rest = {key: value for key, value in record.items() if key not in ENVELOPE}
    cls = EVENTS.get(kind)
    if cls is None:
        return Unknown(name=kind, fields=rest), about
    values = {}
    for name, hint, required in _fields_of(kind):
        if name in rest:
            values[name] = _decode(hint, rest.pop(name), f"{kind}.{name}")
        elif required:
            raise ValueError(f"{kind} without {name}")
    return cls(**values), about | rest


@cache
def _fields_of(kind: str) -> tuple[tuple[str, Any, bool], ...]:
    """(name, type, required) of each field of the events of a kind."""
    cls = EVENTS[kind]
    hints = get_type_hints(cls)
    return tuple(
        (field.name, hints[field.name], field.default is MISSING and field.default_factory is MISSING)
        for field in fields(cls)
    )


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return str(value)


def _decode(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, or ValueError."""
    if hint is Any or hint is type(value):
        return value
    if hint is float:
        return _decode_float(value, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        inner = next(arg for arg in args if arg is not NoneType)
        return None if value is None else _decode(inner, value, where)
    if origin in (list, dict):
        return _decode_container(origin, args[-1], value, where)
    fits = value in args if origin is Literal else isinstance(value, hint) and isinstance(value, bool) is (hint is bool)
    if not fits:
        raise ValueError(f"{where} is {type(value).__name__}, not {hint}")
    return value


def _decode_container(container: type, hint: Any, value: Any, where: str) -> Any:
    if container is dict and isinstance(value, dict):
        return {key: _decode(hint, item, where) for key, item in value.items()}
    if container is list and isinstance(value, list):
        return [_decode(hint, item, where) for item in value]
    raise ValueError(f"{where} is {type(value).__name__}, not {container.__name__}")


def _decode_float(value: Any, where: str) -> float:
    if isinstance(value, str) and value in NON_FINITE:
        return NON_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} is {type(value).__name__}, not a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{where} is too large for a float") from error
