import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.events.record import ENVELOPE, Unknown, from_record, to_record
from luthier.events.types import EVENTS
from tests.events.stream import events, log, whole_run


def through_json(event):
    text = json.dumps(to_record(event, time=1.5, attempt="a1"), allow_nan=False)
    return from_record(json.loads(text))


@given(events)
def test_an_event_comes_back_as_it_went(event):
    back, about = through_json(event)
    # repr, because NaN is not equal to itself
    assert repr(back) == repr(event)
    assert about == {"time": 1.5, "attempt": "a1"}


def test_the_envelope_comes_first_and_hides_no_field():
    for event in whole_run():
        assert list(to_record(event, time=1.5, attempt="a1"))[:3] == list(ENVELOPE)
    assert not any(set(ENVELOPE) & set(cls.__dataclass_fields__) for cls in EVENTS.values())


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "NaN"), (float("inf"), "Infinity")])
def test_a_number_that_json_lacks_is_a_string(value, text):
    assert to_record(log(1, loss=value), time=0.0, attempt="")["loss"] == text
    assert to_record(log(1, loss=-value), time=0.0, attempt="")["loss"] == text.replace("Inf", "-Inf")


def test_a_plan_may_hold_the_word_nan():
    record = {
        "event": "run_started",
        "run": "NaN",
        "total_steps": 1,
        "first_step": 0,
        "epochs": 1,
        "plan": {"a": "NaN"},
    }
    event, _ = from_record(record)
    assert (event.run, event.plan) == ("NaN", {"a": "NaN"})


def test_kinds_and_fields_of_newer_versions_are_kept_aside():
    event, _ = from_record({"event": "teleported", "time": 1, "attempt": "a", "where": "far"})
    assert event == Unknown(name="teleported", fields={"where": "far"})
    assert through_json(event) == (event, {"time": 1.5, "attempt": "a1"})
    record = to_record(log(3), time=2.0, attempt="b") | {"mood": "good"}
    assert from_record(record) == (log(3), {"time": 2.0, "attempt": "b", "mood": "good"})


def test_an_older_record_may_lack_what_has_a_default():
    event, _ = from_record({"event": "resumed", "step": 5, "path": "checkpoint-5"})
    assert event.passed_over == []


@pytest.mark.parametrize(
    "change",
    [
        {"event": 3},
        {"event": None},
        {"step": "10"},
        {"step": 1.5},
        {"step": True},
        {"loss": "abc"},
        {"loss": None},
        {"loss": True},
        {"loss": 10**400},
        {"time": "noon"},
        {"attempt": 7},
    ],
)
def test_a_field_of_the_wrong_type_makes_the_record_unreadable(change):
    with pytest.raises(ValueError):
        from_record(to_record(log(1), time=0.0, attempt="") | change)


def test_a_missing_field_makes_the_record_unreadable():
    record = to_record(log(1), time=0.0, attempt="")
    del record["loss"]
    with pytest.raises(ValueError, match="log without loss"):
        from_record(record)


json_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.sampled_from(sorted(EVENTS)), st.data())
def test_any_record_is_read_or_refused(kind, data):
    fields = EVENTS[kind].__dataclass_fields__
    record = {"event": kind} | {name: data.draw(json_trees) for name in fields}
    try:
        event, _ = from_record(record)
    except ValueError:
        return
    assert type(event) is EVENTS[kind]
