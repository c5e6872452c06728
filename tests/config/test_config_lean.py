"""How a step goes through the model: what `auto` becomes, and what `auto: false` runs."""

from dataclasses import replace

import pytest
import yaml

from luthier.config.plan import Passes
from luthier.config.render import dump_plan_yaml

CPU = {"machine": {"device": "cpu", "device_name": "a CPU"}}


def training(plan, *overrides, **facts):
    return plan(*overrides, **{**CPU, **facts}).config.training


def test_a_plain_adapter_on_a_cpu_takes_the_lean_path(plan):
    p = plan(**CPU)
    assert p.config.training.lean_path is True
    assert p.share_beginnings
    assert "the same numbers" in p.value("training.lean_path").how


def test_on_a_gpu_it_is_taken_too_and_beginnings_are_not_shared(plan):
    assert plan().config.training.lean_path is True
    assert not plan().share_beginnings


def test_where_nobody_has_measured_it_it_is_taken_when_asked_for(plan):
    mps = {"machine": {"device": "mps", "device_name": "a Mac"}}
    assert plan(**mps).config.training.lean_path is False
    assert "not measured on mps" in plan(**mps).value("training.lean_path").how
    assert plan("lean_path=true", **mps).config.training.lean_path is True


def test_8_bit_floats_take_it_everywhere(plan):
    for facts in ({}, CPU):
        p = plan("base_precision=fp8", **facts)
        assert p.config.training.lean_path is True
        assert "base_precision: fp8" in p.value("training.lean_path").how


@pytest.mark.parametrize(
    ("overrides", "facts", "why"),
    [
        (["lora_dropout=0.1"], {}, "lora_dropout"),
        (["packing=false"], {}, "padded"),
        ([], {"model": {"can_isolate_documents": False}}, "padded"),
        ([], {"model": {"lean_obstacle": "the gate is gelu, not silu"}}, "the gate is gelu"),
        (["finetuning_type=full"], {}, "full"),
        (["auto=false", "packing=true"], {}, "auto is false"),
    ],
)
def test_anything_else_goes_through_pefts_layers_and_says_why(plan, overrides, facts, why):
    p = plan(*overrides, **{**CPU, **facts})
    assert p.config.training.lean_path is False
    assert why in p.value("training.lean_path").how
    assert not p.share_beginnings


def test_beginnings_are_not_shared_where_attention_has_a_window(plan):
    assert not plan(**CPU, model={"has_sliding_window": True}).share_beginnings


@pytest.mark.parametrize("written", ["off", "false"])
def test_auto_off_is_the_yaml_as_it_stands(plan, written):
    p = plan(f"training.auto={written}", "per_device_train_batch_size=2", "per_device_eval_batch_size=3", **CPU)
    t = p.config.training
    assert (t.auto, t.packing, t.lean_path, t.gradient_checkpointing) == (False, False, False, False)
    assert p.value("max_tokens_per_micro_batch").how == "auto is false: 3 rows of at most 1,800 tokens"
    assert plan("auto=false", "gradient_checkpointing=true", **CPU).checkpointed_layers == 16


def test_checkpointing_follows_memory_unless_it_is_written(plan, resolve_passes):
    some = resolve_passes(Passes(2048, checkpointed_layers=5, unpack_once=True))
    assert (some.config.training.gradient_checkpointing, some.checkpointed_layers) == (True, 5)
    assert some.unpack_once
    assert some.value("checkpointed_layers").how == "memory asks for 5"
    none = resolve_passes(Passes(2048))
    assert (none.config.training.gradient_checkpointing, none.checkpointed_layers) == (False, 0)
    assert resolve_passes(Passes(2048), "gradient_checkpointing=true").checkpointed_layers == 16
    assert resolve_passes(Passes(2048, checkpointed_layers=5), "gradient_checkpointing=false").checkpointed_layers == 0


@pytest.mark.parametrize("written", ["", "max_tokens_per_micro_batch=1900", "gradient_checkpointing=false"])
@pytest.mark.parametrize(
    "less", [{"micro_batch_tokens": 512}, {"checkpointed_layers": 8}, {"unpack_once": False}], ids=str
)
def test_passes_that_memory_lowered_are_told_as_those_that_a_plan_is_made_with(resolve_passes, written, less):
    """Each value with its reason; what was written stays as it was written, though the run goes another way."""
    keys = [written] if written else []
    before = resolve_passes(Passes(2048, unpack_once=True, how="2,048 tokens, in 12.0 GiB"), *keys)
    lower = replace(before.passes, **less, how="lowered at step 7, when memory ran out", lowered=True)
    lowered = before.with_passes(lower)
    assert lowered == resolve_passes(lower, *keys) and lowered.passes == lower != before.passes
    content = yaml.safe_load(dump_plan_yaml(lowered))
    assert content["derived"]["max_tokens_per_micro_batch"] == {"value": lower.micro_batch_tokens, "how": lower.how}
    made = {
        "max_tokens_per_micro_batch": lower.micro_batch_tokens,
        "gradient_checkpointing": lower.checkpointed_layers > 0,
    }
    for name, value in made.items():
        was_written = written.startswith(name)
        wanted = before.config.training.model_dump()[name] if was_written else value
        assert content["config"]["training"][name] == wanted
        assert (f"training.{name}" in content["decided"]) is not was_written


def test_before_the_model_is_there_nothing_is_claimed(plan):
    p = plan(model=None, data=None, tokens=None)
    assert p.config.training.lean_path == "auto"
    assert p.value("training.lean_path").how == "unknown yet"
