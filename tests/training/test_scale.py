"""float16: gradients keep their digits on the way, and overflow costs no row."""

from __future__ import annotations

import json
import math
from functools import partialmethod
from types import SimpleNamespace

import pytest
import torch

from luthier import api
from luthier.events.types import Log, Notice
from luthier.training import scale
from luthier.training.checkpoint import checkpoints
from luthier.training.scale import GROWS_AFTER, HIGHEST, LOWEST, grow, loss_scale, lower
from luthier.training.state import TrainState
from tests.training.test_resume import config, losses, weights
from tests.training.test_step import our_gradients

OVERFLOWS = 2.0**24


def in_format(dtype: str):
    return SimpleNamespace(config=SimpleNamespace(model=SimpleNamespace(dtype=dtype)))


def settings(folder, model, rows, *, lean=True, dtype="float16"):
    values = config(folder, model, rows, lean_path=lean)
    values["lora"]["lora_dropout"] = 0.0
    values["model"] = {**values["model"], "dtype": dtype}
    return values


def started_at(monkeypatch, value):
    """Runs begin with this scale from now on."""
    monkeypatch.setattr(TrainState, "__init__", partialmethod(TrainState.__init__, loss_scale=value))


def kept(folder):
    return json.loads((checkpoints(folder)[-1] / "trainer_state.json").read_text())


@pytest.mark.parametrize(
    ("dtype", "loss", "norm", "start", "again"),
    [
        ("float16", 2.0, math.inf, 16.0, True),
        ("float16", 2.0, math.nan, 16.0, True),
        ("float16", 2.0, 1.0, 16.0, False),
        ("float16", math.nan, math.nan, 16.0, False),  # on the way forward: no scale mends that
        ("float16", 2.0, math.inf, LOWEST, False),
        ("bfloat16", 2.0, math.inf, 16.0, False),
        ("float32", 2.0, math.inf, 16.0, False),
    ],
)
def test_a_step_is_done_again_where_half_the_scale_may_help(dtype, loss, norm, start, again):
    state = TrainState(loss_scale=start, steps_at_scale=7)
    assert lower(state, in_format(dtype), loss, norm) is again
    assert (state.loss_scale, state.steps_at_scale) == ((start / 2, 0) if again else (start, 7))


def test_it_grows_after_many_steps_and_not_for_ever():
    state = TrainState(loss_scale=HIGHEST / 2)
    for _ in range(GROWS_AFTER):
        assert state.loss_scale == HIGHEST / 2
        grow(state, in_format("float16"))
    for _ in range(GROWS_AFTER + 1):
        assert state.loss_scale == HIGHEST
        grow(state, in_format("float16"))
    other = TrainState()
    grow(other, in_format("bfloat16"))
    assert other == TrainState(), "formats that have no scale have none that grows"
    assert (loss_scale(state, in_format("float16")), loss_scale(state, in_format("bfloat16"))) == (HIGHEST, 1.0)


HALF = {"dtype": "float16", "scale": 16.0}


@pytest.mark.parametrize(
    ("keys", "reference"),
    [
        ({"lean_path": "true"}, {"dtype": "float32"}),
        ({"lean_path": "false"}, {"dtype": "float32"}),
        # weights that are rounded to 16 bits first have other 4 bits
        ({"lean_path": "true", "load_in_4bit": "true"}, {**HALF, "lean_path": "false", "load_in_4bit": "true"}),
    ],
    ids=["lean", "peft's layers", "nf4, lean and peft's layers"],
)
def test_gradients_of_float16_are_those_of_float32(tiny_model_dir, keys, reference):
    loss, exact, _ = our_gradients(tiny_model_dir, **reference)
    found, gradients, _ = our_gradients(tiny_model_dir, **HALF, **keys)
    assert found == pytest.approx(loss, rel=1e-3)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert float((gradient - exact[name]).norm()) <= 0.01 * float(exact[name].norm()) + 1e-9, name


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "peft's layers"])
def test_a_step_that_overflows_is_done_again_and_loses_no_row(tmp_path, tiny_model_dir, alpaca_file, monkeypatch, lean):
    started_at(monkeypatch, OVERFLOWS)
    values = settings(tmp_path / "high", tiny_model_dir, alpaca_file, lean=lean)
    events = list(api.train(values))
    said = [event for event in events if isinstance(event, Notice) and "too large for float16" in event.text]
    assert said and said[0].severity == "info" and "multiplied by" in said[0].text
    assert [event.step for event in events if isinstance(event, Log)] == list(range(1, 13))
    state = kept(tmp_path / "high")
    assert state["skipped_steps"] == 0 and state["loss_scale"] < OVERFLOWS
    assert "left out" not in "".join(event.text for event in events if isinstance(event, Notice))
    # a run that begins where this one ended: the same numbers, as if nothing had been done twice
    started_at(monkeypatch, state["loss_scale"])
    list(api.train(settings(tmp_path / "right", tiny_model_dir, alpaca_file, lean=lean)))
    assert [event.step for event in said] == [1]
    assert losses(tmp_path / "right") == losses(tmp_path / "high")
    exact = settings(tmp_path / "exact", tiny_model_dir, alpaca_file, lean=lean, dtype="float32")
    list(api.train(exact))
    found, wanted = ([log[0] for log in losses(tmp_path / name)["log"].values()] for name in ("high", "exact"))
    assert found == pytest.approx(wanted, abs=5e-3)


def test_a_resumed_run_goes_on_with_its_scale(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    monkeypatch.setattr(scale, "GROWS_AFTER", 3)
    straight = settings(tmp_path / "straight", tiny_model_dir, alpaca_file)
    list(api.train(straight))
    assert kept(tmp_path / "straight")["loss_scale"] == 16.0 * 2**4, "it grew after steps 3, 6, 9 and 12"
    broken, steps = settings(tmp_path / "broken", tiny_model_dir, alpaca_file), [0]
    for event in api.train(broken, stop=lambda: steps[-1] >= 5):
        steps.append(getattr(event, "step", None) or steps[-1])
    assert kept(tmp_path / "broken")["loss_scale"] == 32.0
    list(api.train(broken, resume="auto"))
    assert losses(tmp_path / "broken") == losses(tmp_path / "straight")
    assert weights(tmp_path / "broken") == weights(tmp_path / "straight")
