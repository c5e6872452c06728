"""Every rule: it speaks when it should, names both keys, and is silent otherwise."""

from __future__ import annotations

import pytest

from luthier.config.advice import ADVICE, LORA_KEYS
from luthier.config.rules import RULES
from luthier.errors import ConfigError

CPU = {"device": "cpu", "device_name": "a CPU", "supports_bfloat16": False}
OLD_GPU = {"device_name": "Tesla T4", "supports_bfloat16": False}
PROVOKED = [
    ("E-CFG-020", ["load_in_4bit=true", "finetuning_type=full"], {}, ["load_in_4bit", "finetuning_type"]),
    ("E-CFG-021", ["load_in_4bit=true", "from_scratch=true"], {}, ["load_in_4bit", "from_scratch"]),
    ("E-CFG-022", ["load_in_4bit=true"], {"machine": {"has_bitsandbytes": False}}, ["load_in_4bit", "bitsandbytes"]),
    ("E-CFG-022", ["optim=paged_adamw_8bit"], {"machine": {"has_bitsandbytes": False}}, ["optim", "bitsandbytes"]),
    ("E-CFG-023", ["dtype=bfloat16"], {"machine": OLD_GPU}, ["dtype", "Tesla T4"]),
    ("E-CFG-024", ["packing=true"], {"model": {"can_isolate_documents": False}}, ["packing", "model_name_or_path"]),
    ("E-CFG-025", ["early_stopping_patience=3", "val_set_size=0"], {}, ["early_stopping_patience", "val_set_size"]),
    ("E-CFG-025", ["early_stopping_patience=3", "eval_steps=0"], {}, ["early_stopping_patience", "eval_steps"]),
    ("E-CFG-025", ["early_stopping_patience=3"], {"data": {"eval_rows": 0}},
     ["early_stopping_patience", "val_set_size"]),
    ("E-CFG-025", ["load_best_model_at_end=true", "val_set_size=0"], {}, ["load_best_model_at_end", "val_set_size"]),
    ("E-CFG-025", ["load_best_model_at_end=true", "eval_split=test"], {"data": {"eval_rows": 0}},
     ["load_best_model_at_end", "eval_split"]),
    ("E-CFG-026", ["min_learning_rate=1e-3"], {}, ["min_learning_rate", "learning_rate: 2e-4"]),
    ("E-CFG-027", ["optim=paged_adamw_8bit"], {"machine": CPU}, ["optim", "cpu"]),
    ("E-CFG-028", ["init_lora_weights=pissa", "load_in_4bit=true"], {}, ["init_lora_weights", "load_in_4bit"]),
    ("E-CFG-029", ["r=4096"], {}, ["r: 4096", "2,048"]),
    ("E-CFG-030", ["warmup_steps=100", "max_steps=100"], {}, ["warmup_steps", "max_steps"]),
    ("E-CFG-030", ["warmup_ratio=0.95", "max_steps=2"], {}, ["warmup_ratio", "max_steps"]),
    ("E-CFG-030", ["warmup_steps=5000"], {}, ["warmup_steps", "num_train_epochs"]),
    ("E-CFG-031", ["max_tokens_per_micro_batch=1000"], {}, ["max_tokens_per_micro_batch", "max_seq_length"]),
    ("E-CFG-031", [], {"tokens": 1000}, ["max_tokens_per_micro_batch", "max_seq_length"]),
    ("E-CFG-032", ["from_scratch=true"], {}, ["from_scratch", "finetuning_type"]),
    ("E-CFG-033", ["val_set_size=2.5"], {}, ["val_set_size"]),
    ("E-CFG-034", ["lean_path=true", "lora_dropout=0.1"], {}, ["lean_path", "lora_dropout is not 0"]),
    ("E-CFG-034", ["lean_path=true", "use_dora=true"], {}, ["lean_path", "use_dora"]),
    ("E-CFG-034", ["lean_path=true", "packing=false"], {}, ["lean_path", "padded"]),
    ("E-CFG-034", ["lean_path=true", "finetuning_type=full"], {}, ["lean_path", "full"]),
    ("E-CFG-034", ["lean_path=true", "modules_to_save=[lm_head]"], {}, ["lean_path", "modules_to_save"]),
    ("E-CFG-034", ["lean_path=true"], {"model": {"lean_obstacle": "the gate is gelu"}}, ["lean_path", "gelu"]),
    ("E-CFG-035", ["base_precision=fp8"], {"machine": {"supports_fp8": False}}, ["base_precision", "NVIDIA L40S"]),
    ("E-CFG-036", ["base_precision=fp8", "load_in_4bit=true"], {}, ["base_precision", "load_in_4bit"]),
    ("E-CFG-036", ["base_precision=fp8", "finetuning_type=full"], {}, ["base_precision", "finetuning_type"]),
    ("E-CFG-036", ["base_precision=fp8", "lean_path=false"], {}, ["base_precision", "lean_path"]),
    ("E-CFG-036", ["base_precision=fp8", "init_lora_weights=pissa"], {}, ["base_precision", "init_lora_weights"]),
    ("E-CFG-036", ["base_precision=fp8", "dtype=float32"], {}, ["base_precision", "dtype", "float32"]),
    ("E-CFG-036", ["base_precision=fp8", "lora_dropout=0.1"], {}, ["base_precision", "lora_dropout is not 0"]),
    ("E-CFG-036", ["base_precision=fp8", "auto=false"], {}, ["base_precision", "padded"]),
    ("E-CFG-036", ["base_precision=fp8"], {"model": {"lean_obstacle": "the gate is gelu"}}, ["base_precision", "gelu"]),
    ("E-CFG-037", ["fsdp=true", "from_scratch=true", "finetuning_type=full"], {}, ["fsdp", "from_scratch"]),
    ("E-CFG-037", ["fsdp=true", "use_dora=true"], {}, ["fsdp", "use_dora"]),
    ("E-CFG-037", ["fsdp=true", "init_lora_weights=pissa"], {}, ["fsdp", "pissa"]),
    ("E-CFG-037", ["fsdp=true", "modules_to_save=[lm_head]"], {}, ["fsdp", "modules_to_save"]),
    ("E-CFG-037", ["fsdp=true", "optim=paged_adamw_8bit"], {}, ["fsdp", "paged_adamw_8bit"]),
    ("E-CFG-037", ["fsdp=true"], {"machine": {"device": "mps"}}, ["fsdp", "mps"]),
    ("E-CFG-038", ["gradient_checkpointing=true", "lean_path=false"],
     {"model": {"supports_gradient_checkpointing": False}}, ["gradient_checkpointing", "LlamaForCausalLM"]),
    ("E-CFG-039", ["objective=dpo", "completion_only_loss=false"], {}, ["objective: \"dpo\"", "completion_only_loss"]),
    ("E-CFG-039", ["objective=dpo", "overlong_rows=split"], {}, ["objective", "overlong_rows"]),
    ("E-CFG-039", ["objective=dpo", "fsdp=true"], {"machine": {"world_size": 2}}, ["objective", "fsdp"]),
    ("E-CFG-031", ["objective=dpo", "learning_rate=5e-6"], {"tokens": 3000, "data": {"pairs": True}},
     ["largest pair has 3,600 tokens", "max_seq_length"]),
    ("E-CFG-036", ["fsdp=true", "base_precision=fp8"], {"machine": {"world_size": 2}}, ["base_precision", "fsdp"]),
    ("E-CFG-034", ["fsdp=true", "lean_path=true"], {"machine": {"world_size": 2}}, ["lean_path", "fsdp"]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "overrides", "facts", "names"), PROVOKED)
def test_errors_name_both_keys(plan, code, overrides, facts, names):
    with pytest.raises(ConfigError) as caught:
        plan(*overrides, **facts)
    (problem,) = caught.value.problems
    assert problem.code == code
    assert all(name in problem.found for name in names), problem.found
    assert problem.where
    assert problem.fix


def test_the_headline_facts_provoke_nothing(plan):
    assert plan("load_in_4bit=true").warnings == ()


def test_every_rule_that_refuses_is_provoked_here():
    assert len(RULES) == 20
    assert len({code for code, *_ in PROVOKED}) == 20


def test_all_errors_are_told_at_once(plan):
    with pytest.raises(ConfigError) as caught:
        plan("load_in_4bit=true", "finetuning_type=full", "min_learning_rate=1", "max_steps=1", "warmup_steps=1")
    assert [p.code for p in caught.value.problems] == ["E-CFG-020", "E-CFG-026", "E-CFG-030"]


def test_the_place_of_a_clash_is_the_line_that_the_user_wrote(plan):
    with pytest.raises(ConfigError) as caught:
        plan(config={"training": {"min_learning_rate": 1.0}})
    assert caught.value.problems[0].where == "dict"
    assert "learning_rate: 2e-4 (default)" in caught.value.problems[0].found


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (["packing=auto"], {"model": {"can_isolate_documents": False}}),
        (["val_set_size=0"], {}),
        (["val_set_size=200"], {}),
        (["load_best_model_at_end=false", "eval_steps=0"], {}),
        (["finetuning_type=full", "from_scratch=true"], {}),
        (["r=2048"], {}),
        (["learning_rate=2e-3"], {"model": {"parameters": 5_800_000}}),
        (["learning_rate=2e-3"], {"model": None}),
        (["learning_rate=1e-3"], {}),
        (["min_learning_rate=2e-4"], {}),
        (["init_lora_weights=pissa"], {}),
        (["lora_alpha=64", "r=256", "use_rslora=true"], {}),
        (["max_tokens_per_micro_batch=1800"], {}),
        (["objective=dpo", "learning_rate=5e-5", "beta=0.3", "overlong_rows=truncate"], {"data": {"pairs": True}}),
        (["objective=dpo", "learning_rate=5e-6", "finetuning_type=full"], {}),
        (["objective=dpo"], {"model": {"parameters": 5_800_000}}),
        (["packing=true", "r=100000", "warmup_steps=100000"], {"model": None, "data": None}),
    ],
)
def test_rules_are_silent_when_all_is_well_or_not_known_yet(plan, overrides, facts):
    assert not plan(*overrides, **facts).warnings


WARNED = [
    (["dtype=bfloat16"], {"machine": CPU}, "emulated"),
    (["dtype=float16"], {"machine": {**CPU, "supports_bfloat16": True}}, "emulated on this CPU and slow; dtype: auto"),
    (["max_seq_length=4096"], {"model": {"max_position_embeddings": 2048}}, "2,048 positions"),
    (["learning_rate=0.02"], {}, "very high for an adapter"),
    (["learning_rate=2e-3"], {}, "0.002 (override) is high for an adapter on a base of 1,236 million parameters; 1e-4"),
    (["learning_rate=2e-3", "finetuning_type=full"], {}, "very high for full fine-tuning"),
    (["objective=dpo"], {}, "is high for DPO with an adapter; 5e-6 to 5e-5 is usual, and 5e-6 a good start"),
    (
        ["objective=dpo", "learning_rate=5e-5", "finetuning_type=full"],
        {},
        "5e-7 to 5e-6 is usual, and 5e-7 a good",
    ),
    (["beta=0.3"], {}, "beta: 0.3 (override) has no effect: objective is sft."),
    (["label_smoothing=0.1"], {}, "label_smoothing: 0.1 (override) has no effect: objective is sft."),
    (["dtype=float16"], {}, "has not been measured"),
    (["lora_alpha=160"], {}, "scales the adapter by 10"),
    (["warmup_steps=5", "warmup_ratio=0.1"], {}, "warmup_ratio: 0.1"),
    (["eval_split=test", "val_set_size=0.1"], {}, "val_set_size: 0.1"),
    (["max_steps=5", "num_train_epochs=7"], {}, "num_train_epochs: 7"),
    (["decay_ratio=0.5"], {}, "decay_ratio: 0.5"),
    (["min_learning_rate=1e-5", "lr_scheduler_type=constant"], {}, "min_learning_rate: 1e-5"),
    (["sample_steps=[1]"], {}, "sample_steps: [1]"),
    (["sample_max_new_tokens=5"], {}, "sample_max_new_tokens: 5"),
    (["num_train_epochs=1"], {"data": {"train_rows": 414}}, "14 of 414 rows are never seen"),
    (["num_train_epochs=1"], {"data": {"train_rows": 30}}, "is 1 step with learning_rate: 2e-4 (default), too few"),
    (["early_stopping_threshold=0.1"], {}, "early_stopping_threshold: 0.1"),
    (["eval_steps=10", "val_set_size=0"], {}, "eval_steps: 10"),
    (["per_device_eval_batch_size=2", "val_set_size=0"], {}, "per_device_eval_batch_size: 2"),
    (["max_tokens_per_micro_batch=4096", "auto=false"], {}, "max_tokens_per_micro_batch: 4096"),
    (["project=lutes"], {}, 'project: "lutes" (override) has no effect: report_to names none of wandb'),
    (["fsdp=true"], {}, "fsdp: true (override) has no effect: there is one process"),
    (["bnb_4bit_quant_type=fp4"], {}, "load_in_4bit is false"),
    (["bnb_4bit_use_double_quant=false"], {}, "load_in_4bit is false"),
    *(
        ([f"{key}={value}", "finetuning_type=full"], {}, f"{key}: ")
        for key, value in zip(
            LORA_KEYS, ("8", "16", "0.1", "[q_proj]", "[lm_head]", "true", "true", "gaussian"), strict=True
        )
    ),
    ([], {"config": {"model": {"model_name_or_path": "m"}}}, "no data.datasets is given: the rows are those of the "),
    ([], {"config": {"data": {"datasets": ["d"]}}}, "no model.model_name_or_path is given: the model is the default, "),
]


@pytest.mark.parametrize(("overrides", "facts", "says"), WARNED)
def test_warnings(plan, overrides, facts, says):
    (warning,) = plan(*overrides, **facts).warnings
    assert says in warning
    assert warning.endswith(".")


def test_rows_that_fill_no_step_are_said_where_they_matter(plan):
    """What is advised, done: nothing is left over, and nothing is said."""
    small = {"train_rows": 140, "eval_rows": 0}
    (said,) = plan("num_train_epochs=3", data=small).warnings
    assert said.startswith("4 of 140 rows are not seen in the last epoch: ") and "max_steps: 27 trains" in said
    for advised in (["max_steps=27"], ["per_device_train_batch_size=1"]):
        assert plan("num_train_epochs=3", *advised, data=small).warnings == ()
    assert plan("num_train_epochs=1", data={"train_rows": 17_680 + 15}).warnings == (), "15 of 17,695 are no matter"


SMALL = {"model": {"parameters": 5_770_496}}


def test_a_run_that_is_too_short_to_learn_is_said_and_what_is_advised_is_long_enough(plan):
    """By steps, by rate, or by both; and of what was asked for (max_steps), or is no adapter's, nothing."""
    sixty = {"data": {"train_rows": 57, "eval_rows": 3}}
    (said,) = plan("num_train_epochs=1", **sixty, **SMALL).warnings
    assert said.startswith("num_train_epochs: 1 (override) is 3 steps with learning_rate: 2e-4 (")
    better = ["learning_rate=2e-3", "gradient_accumulation_steps=1", "num_train_epochs=10"]
    assert said.endswith(
        "Better: learning_rate: 0.002, gradient_accumulation_steps: 1, num_train_epochs: 10; that is 142 steps."
    )
    (said,) = plan("num_train_epochs=9", "gradient_accumulation_steps=1", **sixty, **SMALL).warnings
    assert said.endswith("Better: learning_rate: 0.002; that is 128 steps.")
    assert plan("num_train_epochs=9", "gradient_accumulation_steps=1", **sixty).warnings == (), "a large base"
    (said,) = plan("num_train_epochs=1", data={"train_rows": 7, "eval_rows": 0}).warnings
    assert "gradient_accumulation_steps: 1, num_train_epochs: 10, more rows; that is 17 steps" in said
    (said,) = plan("num_train_epochs=10", data={"train_rows": 1, "eval_rows": 0}).warnings
    assert said.endswith("Better: more rows."), "of one row each epoch is a step, whatever the batch"
    for asked in (better, ["max_steps=3"], ["finetuning_type=full", "num_train_epochs=1"]):
        assert not any("too few" in warning for warning in plan(*asked, **sixty, **SMALL).warnings), asked


def test_who_puts_a_key_over_the_file_is_not_told_that_it_wins(plan):
    given = {"model": {"model_name_or_path": "m"}, "data": {"datasets": ["d"]}}
    written = given | {"training": {"num_train_epochs": 7, "warmup_ratio": 0.1}}
    assert plan("max_steps=5", "warmup_steps=2", config=written).warnings == ()
    assert len(plan(config=given | {"training": {"num_train_epochs": 7, "max_steps": 5}}).warnings) == 1


def test_a_large_alpha_is_seen_with_rslora_too(plan):
    (said,) = plan("lora_alpha=128", "r=64", "use_rslora=true").warnings
    assert "over the square root of r: 64 (override) scales the adapter by 16; 2 to 4 is plenty" in said


@pytest.mark.parametrize("off", ["val_set_size=0", "eval_steps=0", "eval_strategy=no"])
def test_who_switches_evaluation_off_over_the_file_is_told_what_that_ends(plan, off):
    given = {"model": {"model_name_or_path": "m"}, "data": {"datasets": ["d"]}}
    written = given | {"evaluation": {"load_best_model_at_end": True, "early_stopping_patience": 3}}
    facts = {"data": {"eval_rows": 0}} if "val_set" in off else {}
    made = plan(off, config=written, **facts)
    said = [warning for warning in made.warnings if "has no effect" in warning]
    assert [warning.partition(":")[0] for warning in said] == ["early_stopping_patience", "load_best_model_at_end"]
    assert all("0 (override" in warning for warning in said)
    e = made.config.evaluation
    assert (e.load_best_model_at_end, e.early_stopping_patience) == (False, None)


def test_e_cfg_025_a_file_that_asks_for_the_best_of_nothing(plan):
    with pytest.raises(ConfigError) as caught:
        plan(config={"evaluation": {"load_best_model_at_end": True, "eval_strategy": "no"}})
    (problem,) = caught.value.problems
    assert problem.code == "E-CFG-025" and problem.fix == "load_best_model_at_end: false (or eval_steps: 100)"


def test_every_advice_is_provoked_here():
    assert (
        len(WARNED) == len(ADVICE) + 6
    )  # one more rule warns, twice (16 bits on a CPU); one advice is there five times


def test_keys_with_their_default_are_never_called_useless(plan):
    written = [
        "decay_ratio=0.2",
        "early_stopping_threshold=0",
        "bnb_4bit_quant_type=nf4",
        "sample_steps=[0, 100, 1000, 3000]",
    ]
    assert plan(*written).warnings == ()
