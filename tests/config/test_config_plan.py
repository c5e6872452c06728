"""The plan: autos, arithmetic, origins, and its three renderings."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import yaml

from luthier.config.keys import keys
from luthier.config.load import from_dict, load
from luthier.config.plan import MachineFacts
from luthier.config.render import dump_plan_yaml, plan_as_dict, render_plan
from luthier.config.resolve import WAITING
from luthier.data.order import step_rows
from luthier.errors import ConfigError

HEADLINE = ["num_train_epochs=3", "warmup_ratio=0.03", "load_in_4bit=true", "min_learning_rate=5e-5"]


def test_the_arithmetic_of_the_headline_job(plan):
    p = plan(*HEADLINE)
    assert (p.examples_per_step, p.total_steps, p.warmup_steps, p.decay_steps) == (16, 3315, 100, 3215)
    assert (p.eval_every, p.save_every, p.max_tokens_per_micro_batch) == (276, 500, 8192)
    assert p.steps_per_epoch == 17_682 / 16
    assert p.value("examples_per_step").how == "4 x 4 accumulation x 1 device = 16 examples a step"
    assert p.value("total_steps").how == "18,612 rows x 0.95 x 3 / 16 = 3,315 steps"
    assert p.value("warmup_steps").how == "0.03 x 3,315 = 99.45, rounded up: 100 steps"
    assert p.value("max_tokens_per_micro_batch").how == "8,192 tokens, derived from free memory"


def test_no_time_is_said_before_anything_was_measured(plan):
    def said(resolved):
        return next(
            " ".join(line.split()) for line in render_plan(resolved, 300).split("\n") if line.startswith("  Time")
        )

    nothing = "Time nothing was measured yet; `luthier train` says it"
    rehearsed = f"{nothing} before step 1, from the rehearsal of the largest step, and after the first steps."
    assert said(plan(*HEADLINE)) == rehearsed
    assert said(plan(*HEADLINE, "max_steps=20")) == f"{nothing} after the first steps."


@pytest.mark.parametrize("first", [True, False])
def test_what_is_due_after_which_step(plan, first):
    keys = ["max_steps=100", "sample_steps=[0, 50]", f"save_first_step={first}"]
    p = plan(*HEADLINE, *keys, "eval_steps=40", "save_steps=30")
    wanted = {
        "evaluations": [40, 80, 100],
        "saves": [1] * first + [30, 60, 90, 100],
        "samples": [0, 50, 100],
    }
    for name, steps in wanted.items():
        due = getattr(p, name)
        assert [step for step in range(101) if step in due] == sorted(due) == steps
        assert [due.left(step) for step in range(101)] == [sum(s >= step for s in steps) for step in range(101)]
        assert 130 in due, "a run that was longer once is past its last step"
    never = plan(*HEADLINE, *keys, "eval_steps=0", "save_steps=0")
    assert sorted(never.evaluations) == [] and 100 not in never.evaluations
    assert sorted(never.saves) == [100]
    each = plan(*HEADLINE, *keys, "eval_steps=1", "save_steps=1")
    assert sorted(each.saves) == sorted(each.evaluations) == list(range(1, 101)), "each once"


def test_a_share_that_does_not_explain_the_rows_is_not_claimed(plan):
    how = plan("val_set_size=0.05", data={"train_rows": 1000, "eval_rows": 500}).value("total_steps").how
    assert how == "1,500 rows - 500 held out = 1,000; 1,000 x 3 / 16 = 187 steps"
    assert plan("val_set_size=500", data={"train_rows": 1000, "eval_rows": 500}).value("total_steps").how == how
    assert plan("eval_split=test").value("total_steps").how == "17,682 rows x 3 / 16 = 3,315 steps"


def test_devices_count(plan):
    p = plan(machine={"world_size": 8})
    assert p.examples_per_step == 128
    assert "x 8 devices = 128" in p.value("examples_per_step").how


def test_steps(plan):
    assert plan("max_steps=100").total_steps == 100
    assert "0.09 epochs" in plan("max_steps=100").value("total_steps").how
    few = plan("num_train_epochs=0.5", data={"train_rows": 20, "eval_rows": 1})
    assert (few.total_steps, few.eval_every) == (1, 1)
    assert "at least 1" in few.value("total_steps").how
    exact = {"train_rows": 10, "eval_rows": 0}
    tenths = plan("num_train_epochs=0.1", "gradient_accumulation_steps=1", "per_device_train_batch_size=1", data=exact)
    assert tenths.total_steps == 1
    assert plan("warmup_ratio=0.1", "max_steps=30").warmup_steps == 3


@pytest.mark.parametrize("keys", [["num_train_epochs=3"], ["max_steps=3"]], ids=["epochs", "steps"])
def test_rows_that_are_fewer_than_a_step_takes_are_seen_as_often_as_the_plan_says(plan, keys):
    p = plan(*keys, "val_set_size=0", data={"train_rows": 10, "eval_rows": 0})
    drawn = [row for step in range(p.total_steps) for row in step_rows(10, p.examples_per_step, 42, step)]
    assert sorted(drawn) == sorted(list(range(10)) * 3)
    assert p.total_steps / p.steps_per_epoch == 3.0
    assert (
        p.value("examples_per_step").how
        == "4 x 4 accumulation x 1 device = 16, and there are 10: all rows in each step"
    )
    assert p.value("steps_per_epoch").how == "10 rows / 10 = 1.0 steps an epoch"
    epochs, steps = "10 rows x 3 / 10 = 3 steps", "max_steps = 3 steps, 3.00 epochs"
    assert p.value("total_steps").how == (epochs if "epochs" in keys[0] else steps)


def test_schedules(plan):
    assert plan("lr_scheduler_type=constant").decay_steps == 0
    assert plan("lr_scheduler_type=wsd", "max_steps=100").decay_steps == 20
    short = plan("lr_scheduler_type=wsd", "max_steps=100", "decay_ratio=0.9", "warmup_steps=30")
    assert short.decay_steps == 70
    assert "leaves 70" in short.value("decay_steps").how


def test_autos_are_replaced_and_explained(plan):
    p = plan("output_dir=runs/a")
    c = p.config
    assert (c.model.dtype, c.training.packing, c.training.optim) == ("bfloat16", True, "adamw_torch_fused")
    assert (c.evaluation.eval_steps, c.evaluation.per_device_eval_batch_size) == (276, 4)
    assert (c.logging.logging_dir, c.training.max_tokens_per_micro_batch) == ("runs/a/logs", 8192)
    by_what_is_there = ("data.prompt_template", "training.memory_gib")
    assert "auto" not in [v.value for v in p.values if v.key not in by_what_is_there]
    assert all(p.value(key).how for key in ("model.dtype", "training.packing", "training.optim"))
    assert plan("dtype=float32").value("model.dtype").how == ""


def test_dtype_follows_the_device(plan):
    none = {"supports_bfloat16": False}
    assert plan(machine=none).config.model.dtype == "float16"
    assert plan(machine={**none, "device": "cpu"}).config.model.dtype == "float32"
    assert plan(machine={**none, "device": "mps"}).config.model.dtype == "float32"


def test_packing_follows_the_model(plan):
    assert plan(model={"can_isolate_documents": False}).config.training.packing is False


def test_without_rows_to_evaluate_the_last_weights_are_kept(plan):
    for p in (plan("val_set_size=0", data={"eval_rows": 0}), plan("eval_steps=0"), plan(data={"eval_rows": 0})):
        assert p.eval_every == 0
        assert p.config.evaluation.load_best_model_at_end is False
    assert plan("eval_steps=50").eval_every == 50


INTERVALS = {"save_steps": "save_every", "eval_steps": "eval_every", "logging_steps": "log_every"}


@pytest.mark.parametrize("share", [0.25, 0.01, 0.3, 0.07, 0.999])
def test_a_share_of_all_steps_is_what_it_is_in_transformers(plan, share):
    from transformers import TrainerState, TrainingArguments

    made = plan(*(f"{key}={share}" for key in INTERVALS), "max_steps=250")
    state = TrainerState()
    state.compute_steps(TrainingArguments(**dict.fromkeys(INTERVALS, share), use_cpu=True), 250)
    for key, name in INTERVALS.items():
        assert getattr(made, name) == getattr(state, key), key
    assert made.config.checkpointing.save_steps == made.save_every and made.config.logging.logging_steps


@pytest.mark.parametrize("rows", [160, 168, 8, 161, 175])
def test_epochs_end_with_whole_steps_and_the_last_one_with_the_run(plan, rows):
    p = plan(*(f"{key}=epoch" for key in INTERVALS), data={"train_rows": rows, "eval_rows": 8})
    ends = [-(-rows * epoch // p.examples_per_step) for epoch in (1, 2)]
    for name in INTERVALS.values():
        every = getattr(p, name)
        first, second, *more = range(every, p.total_steps, every)
        assert (first, more) == (ends[0], []) and 0 <= second - ends[1] <= 1
    assert p.config.evaluation.eval_steps == p.eval_every


@pytest.mark.parametrize(
    "asked, said",
    [
        ([0, 100, 1000], "at steps 0 and the last"),
        ([0, 20, 1000], "at steps 0, 20 and the last"),
        ([100], "at the last step"),
        ([31], "at the last step"),
    ],
)
def test_samples_are_told_at_the_steps_that_there_are(plan, asked, said):
    p = plan("max_steps=31", "sample_prompts=[Hi]", f"sample_steps={asked}")
    assert f"1 prompt {said}, up to" in " ".join(render_plan(p, values=False).split())


def test_shares_and_epochs_tell_their_arithmetic(plan):
    p = plan("save_steps=0.5", "eval_steps=epoch", "logging_steps=0.3", "max_steps=31", data={"train_rows": 168})
    assert p.value("save_every").how == "0.5 x 31 = 15.5, rounded up: every 16 steps, and at the end"
    assert p.value("evaluation.eval_steps").how == "10.5 steps an epoch, rounded up: every 11 steps, and at the end"
    assert p.value("log_every").how == "0.3 x 31 = 9.3, rounded up: every 10 steps, at step 1 and at the end"
    assert p.value("evaluation.eval_steps").source == "override"
    whole = plan("eval_steps=epoch", data={"train_rows": 160}).value("eval_every").how
    assert whole == "10.0 steps an epoch: every 10 steps, and at the end"
    assert "every 16 steps and at the end" in render_plan(p)
    offline = plan("save_steps=epoch", "eval_steps=0.5", data=None)
    assert (offline.save_every, offline.eval_every) == (0, 0)
    said = " ".join(render_plan(offline, values=False).split())
    assert "save_steps: epoch, in steps unknown until the rows are counted" in said
    assert plan("eval_steps=epoch", "val_set_size=0", data={"eval_rows": 0}).eval_every == 0


@pytest.mark.parametrize("value", ["1.5", "1.0", "-0.5", "epochs", "true"])
@pytest.mark.parametrize("key", INTERVALS)
def test_other_intervals_are_refused(key, value):
    with pytest.raises(ConfigError) as error:
        from_dict({}, [f"{key}={value}"])
    (problem,) = error.value.problems
    assert problem.code in ("E-CFG-010", "E-CFG-011") and "`epoch`" in problem.found and key in problem.fix


def test_offline_the_plan_says_what_is_missing(plan):
    p = plan(model=None, data=None, tokens=None)
    assert (p.total_steps, p.eval_every, p.max_tokens_per_micro_batch) == (0, 0, 0)
    for name in ("total_steps", "steps_per_epoch", "eval_every", "decay_steps", "max_tokens_per_micro_batch"):
        assert p.value(name).how.startswith("unknown until") and not p.value(name).known
    assert p.value("examples_per_step").known and plan().value("total_steps").known
    waiting = {value.key for value in p.values if value.is_key and not value.known}
    decided = yaml.safe_load(dump_plan_yaml(p))["decided"]
    assert waiting == WAITING and "model.dtype" in decided and not waiting & {*decided}
    assert p.config.evaluation.load_best_model_at_end is True
    words = render_plan(p).partition("\n  derived\n")[2].split()
    for name in ("total_steps", "steps_per_epoch", "eval_every", "max_tokens_per_micro_batch"):
        assert words[words.index(name) + 1] == "unknown", "0 would mean never"
    assert "Every value" not in render_plan(p, values=False)
    assert plan("auto=false", data=None).value("max_tokens_per_micro_batch").how.startswith("unknown until")
    assert plan("max_steps=7", data=None).total_steps == 7


def test_origins(plan):
    p = plan("seed=1", config={"lora": {"r": 8}})
    assert (p.value("training.seed").source, p.value("lora.r").source) == ("override", "dict")
    assert p.value("lora.lora_alpha").source == "default"
    assert p.value("total_steps").source == "derived"
    assert [v.key for v in p.values if v.is_key] == list(keys())


def test_notes_become_warnings(plan):
    assert plan("lr=1e-4").warnings == ("lr (override lr=...) is called training.learning_rate here.",)


def test_the_text_fits_a_terminal_and_says_everything(plan):
    prompts = "sample_prompts=['" + "long " * 60 + "', b]"
    text = render_plan(plan(*HEADLINE, prompts, "tf32=true", "output_dir=" + "x" * 80))
    assert max(map(len, text.splitlines())) <= 100
    assert max(map(len, render_plan(plan(*HEADLINE), 80).splitlines())) <= 80
    for words in (
        "3,315 steps", "16 examples a step", "4-bit nf4 with double quantization", "over 100 steps", "5e-5",
        "2 prompts",
        "NVIDIA L40S", "rank 16, scale 2", "tf32", "every 276 steps", "derived from free memory", "override",
    ):  # fmt: skip
        assert words in text, words
    for key in keys().values():
        assert f"    {key.name} " in text


def test_the_text_of_other_choices(plan):
    full = ["finetuning_type=full", "from_scratch=true", "packing=false", "eval_steps=0", "save_steps=0"]
    text = " ".join(render_plan(plan(*full)).split())
    for words in ("from random weights", "every weight", "padded", "none: eval_steps: 0", "at the end only"):
        assert words in text
    often = " ".join(render_plan(plan("save_steps=7")).split())
    assert "every 7 steps and at the end, also after step 1, after each best evaluation, when the last is 15 " in often
    rarely = " ".join(render_plan(plan("save_steps=0")).split())
    assert "at the end, also after each best evaluation, in " in rarely
    alone = ["save_first_step=false", "save_minutes=0", "load_best_model_at_end=false"]
    assert "every 500 steps and at the end, in " in " ".join(render_plan(plan(*alone)).split())
    assert "starts at 2e-4" in text
    assert "the newest 2 and the best are kept (2 whole ones always stay)" in " ".join(
        render_plan(plan("save_total_limit=1")).split()
    )
    assert "DoRA" in render_plan(plan("use_dora=true", "lr_scheduler_type=wsd", "target_modules=[q_proj, v_proj]"))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [(999_000, "999,000"), (33_160_000, "33.2 M"), (999_600_000, "1 B"), (1_236_000_000, "1.24 B")],
)
def test_parameters_are_told_in_three_digits(plan, parameters, said):
    p = plan(*HEADLINE)
    assert p.model is not None
    assert f", {said} parameters, " in render_plan(replace(p, model=replace(p.model, parameters=parameters)), 300)


def test_plan_yaml_reads_back_and_can_be_run_again(plan, tmp_path):
    p = plan(*HEADLINE, "output_dir='a: b # c'", "sample_prompts=['é 日本 \"x\"']", "early_stopping_patience=3")
    text = dump_plan_yaml(p, {"versions": {"torch": "2.13"}, "path": tmp_path, "list": (1, 2)})
    content = yaml.safe_load(text)
    assert content["derived"]["total_steps"]["value"] == 3315
    assert content["versions"] == {"torch": "2.13"}
    assert content["path"] == str(tmp_path)
    assert content["machine"]["device_name"] == "NVIDIA L40S"
    assert from_dict(content["config"]).config == p.config
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(content["config"]))
    assert load(tmp_path / "again.yaml").config == p.config


def test_the_flat_dict_is_plain(plan):
    made = plan(*HEADLINE)
    flat, derived = plan_as_dict(made), {f"plan.{value.key}" for value in made.values if not value.is_key}
    machine = {f"machine.{field.name}" for field in fields(MachineFacts)}
    assert set(flat) == {*keys(), *derived, *machine}
    assert (flat["plan.total_steps"], flat["plan.max_tokens_per_micro_batch"]) == (3315, 8192)
    assert yaml.safe_load(yaml.safe_dump(flat)) == flat
