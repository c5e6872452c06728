"""Keys and values of Axolotl, LLaMA-Factory, Unsloth, TRL and transformers."""

from __future__ import annotations

import itertools
import re

import pytest

from luthier.config import aliases, meanings, placing
from luthier.config.keys import SECTIONS, by_name, keys, source_keys
from luthier.config.load import load


def get(config, key):
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def test_no_word_has_two_meanings():
    tables = [aliases.RENAMED, aliases.DECIDED, aliases.UNSUPPORTED, meanings.KEYS]
    for one, other in itertools.combinations(tables, 2):
        assert not set(one) & set(other)
    for table in tables:
        assert not set(table) & set(by_name())
    assert set(aliases.RENAMED.values()) | set(meanings.VALUES) <= set(keys())
    assert set(aliases.SOURCE_NAMES.values()) <= set(source_keys())
    assert set(aliases.SECTION_NAMES.values()) <= set(SECTIONS)


@pytest.mark.parametrize("name", sorted(aliases.RENAMED))
def test_every_renamed_key_sets_its_key_and_is_reported(write, name):
    key = aliases.RENAMED[name]
    value = keys()[key].typical
    text = "[{path: train.jsonl}]" if key == "data.datasets" else "null" if value is None else repr(value)
    text = text.replace("True", "true").replace("False", "false")
    path = write(f"{name}: {text}\n")
    loaded = load(path)
    assert loaded.sources[key] == f"{path}:1"
    assert any(name in note and key in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("adapter: qlora", {"quantization.load_in_4bit": True, "training.finetuning_type": "lora"}),
        ("adapter: lora", {"quantization.load_in_4bit": False, "training.finetuning_type": "lora"}),
        ("adapter:", {"training.finetuning_type": "full"}),
        ("finetuning_type: qlora", {"quantization.load_in_4bit": True}),
        ("full_finetuning: true", {"training.finetuning_type": "full"}),
        ("use_peft: false", {"training.finetuning_type": "full"}),
        ("quantization_bit: 4", {"quantization.load_in_4bit": True}),
        ("train_on_inputs: true", {"data.completion_only_loss": False}),
        ("train_on_inputs: false", {"data.completion_only_loss": True}),
        ("mask_prompt: false", {"data.completion_only_loss": False}),
        ("bf16: auto", {"model.dtype": "auto"}),
        ("bf16: true", {"model.dtype": "bfloat16"}),
        ("bf16: false\nfp16: true", {"model.dtype": "float16"}),
        ("bf16: true\ntorch_dtype: bfloat16", {"model.dtype": "bfloat16"}),
        ("torch_dtype: torch.float16", {"model.dtype": "float16"}),
        ("use_gradient_checkpointing: unsloth", {"training.gradient_checkpointing": True}),
        ("fsdp: [full_shard, auto_wrap]\nfsdp_version: 2", {"training.fsdp": True}),
        ("fsdp: full_shard", {"training.fsdp": True}),
        ("fsdp: []", {"training.fsdp": False}),
        ("report_to: none", {"logging.report_to": []}),
        ("report_to: all", {"logging.report_to": ["tensorboard"]}),
        ("report_to: wandb", {"logging.report_to": ["wandb"]}),
        ("warmup_steps: 0.03", {"training.warmup_ratio": 0.03, "training.warmup_steps": None}),
        ("max_steps: -1", {"training.max_steps": None}),
        ("lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 5e-5}",
         {"training.lr_scheduler_type": "cosine", "training.min_learning_rate": 5e-5}),
        ("lr_scheduler: warmup_stable_decay", {"training.lr_scheduler_type": "wsd"}),
        ("optimizer: adamw_bnb_8bit", {"training.optim": "paged_adamw_8bit"}),
        ("optim: adamw_8bit", {"training.optim": "paged_adamw_8bit"}),
        ("optim: adamw_torch", {"training.optim": "adamw_torch"}),
        ("eval_strategy: 'no'", {"evaluation.eval_steps": 0}),
        ("evaluation_strategy: steps\neval_steps: 50", {"evaluation.eval_steps": 50}),
        ("save_strategy: no", {"checkpointing.save_steps": 0}),
        ("evals_per_epoch: 0", {"evaluation.eval_steps": 0}),
        ("eval_strategy: epoch", {"evaluation.eval_steps": "epoch"}),
        ("evaluation_strategy: epoch\neval_steps: null", {"evaluation.eval_steps": "epoch"}),
        ("eval_steps:\neval_strategy: epoch", {"evaluation.eval_steps": "epoch"}),
        ("evaluation_strategy: epoch\neval_strategy: epoch", {"evaluation.eval_steps": "epoch"}),
        ("eval_strategy: steps", {"evaluation.eval_steps": None}),
        ("eval_strategy: steps\neval_steps: 0.25", {"evaluation.eval_steps": 0.25}),
        ("evals_per_epoch: 1", {"evaluation.eval_steps": "epoch"}),
        ("save_strategy: epoch", {"checkpointing.save_steps": "epoch"}),
        ("save_strategy: steps", {"checkpointing.save_steps": 500}),
        ("save_strategy: steps\nsave_steps: 0.5", {"checkpointing.save_steps": 0.5}),
        ("save_strategy: best", {"checkpointing.save_steps": 0}),
        ("saves_per_epoch: 1", {"checkpointing.save_steps": "epoch"}),
        ("logging_strategy: epoch", {"logging.logging_steps": "epoch"}),
        ("logging_strategy: steps", {"logging.logging_steps": 10}),
        ("do_eval: false", {"evaluation.eval_steps": 0}),
        ("resume_from_checkpoint: true", {"checkpointing.resume_from_checkpoint": "auto"}),
        ("lora_target: all", {"lora.target_modules": "all-linear"}),
        ("lora_target: q_proj,v_proj", {"lora.target_modules": ["q_proj", "v_proj"]}),
        ("lora_target_linear: true", {"lora.target_modules": "all-linear"}),
        ("init_lora_weights: true", {"lora.init_lora_weights": "default"}),
        ("chat_template: tokenizer_default", {"data.prompt_template": "chat"}),
        ("lora:\n  rank: 8\n  alpha: 16", {"lora.r": 8, "lora.lora_alpha": 16}),
        ("peft_config:\n  r: 8", {"lora.r": 8}),
        ("train.epochs: 2", {"training.num_train_epochs": 2}),
    ],
)  # fmt: skip
def test_foreign_values_are_translated(write, line, expected):
    loaded = load(write(line + "\n"))
    assert {key: get(loaded.config, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("owner/name", ["owner/name"]), ("{path: a.jsonl}", ["a.jsonl"]),
        ("[a.jsonl, {path: b.csv}]", ["a.jsonl", "b.csv"]),
        ("[{dataset: c.json}]", ["c.json"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["dataset", "datasets", "data", "dataset_name"])
def test_datasets_in_every_short_form(write, key, value, paths):
    assert [source.path for source in load(write(f"{key}: {value}\n")).config.data.datasets] == paths


def test_the_keys_of_one_dataset(write):
    text = "datasets:\n  - path: a.jsonl\n    type: chat_template\n    subset: main\n    ds_type: json\n"
    loaded = load(write(text))
    assert (loaded.config.data.datasets[0].format, loaded.config.data.datasets[0].name) == ("messages", "main")
    assert len(loaded.notes) == 4


def test_flat_files_work_and_say_so(write):
    path = write("learning_rate: 1e-4\nr: 8\nlora:\n  seed: 3\n")
    loaded = load(path)
    assert (loaded.config.training.learning_rate, loaded.config.lora.r, loaded.config.training.seed) == (1e-4, 8, 3)
    assert f"seed ({path}:4) is read as training.seed." in loaded.notes


@pytest.mark.parametrize("name", sorted(aliases.DECIDED))
def test_keys_without_meaning_are_accepted_with_a_reason(write, name):
    loaded = load(write(f"{name}: true\n"))
    assert aliases.DECIDED[name] in loaded.notes[0]
    assert set(loaded.sources.values()) == {"default"}


@pytest.mark.parametrize("name", sorted(aliases.UNSUPPORTED))
def test_e_cfg_009_keys_that_cannot_be_honoured(write, refused, name):
    (problem,) = refused(f"{name}: something\n")
    assert problem.code == "E-CFG-009"
    assert problem.fix
    for neutral in aliases.UNSUPPORTED[name][0]:
        text = "null" if neutral is None else repr(neutral)
        assert load(write(f"{name}: {text.replace('True', 'true').replace('False', 'false')}\n")).notes


@pytest.mark.parametrize(
    "line",
    [
        "load_in_8bit: true", "quantization_bit: 8", "eval_strategy: best", "logging_strategy: no",
        "save_strategy: epochs",
        "evals_per_epoch: 2", "saves_per_epoch: 2",
        "lr_scheduler_kwargs: {num_cycles: 2}", "template: llama3",
    ],
)  # fmt: skip
def test_e_cfg_009_values_that_cannot_be_honoured(refused, line):
    (problem,) = refused(line)
    assert problem.code == "E-CFG-009"


def test_e_cfg_006_an_alias_and_its_key_that_disagree(refused, write):
    (problem,) = refused("lora:\n  r: 8\nlora_rank: 16\n")
    assert problem.code == "E-CFG-006"
    assert problem.where.endswith(":3")
    assert "lora_rank sets lora.r to 16" in problem.found and "c.yaml:2) set to 8" in problem.found
    (problem,) = refused("datasets: [{path: a, file: b}]\n")
    assert problem.code == "E-CFG-006"
    assert load(write("adapter: qlora\nload_in_4bit: true\n")).config.quantization.load_in_4bit


def test_e_cfg_006_a_strategy_and_steps_that_say_something_else(refused, write):
    for strategy, steps in (("epoch", 500), ("no", 0.5)):
        (problem,) = refused(f"save_strategy: {strategy}\nsave_steps: {steps}\n")
        assert problem.code == "E-CFG-006" and "save_strategy" in problem.found and problem.where.endswith(":2")
    path = write("save_strategy: epoch\neval_steps: 50\n")
    config = load(path, ["save_steps=0.5", "eval_strategy=epoch"]).config
    assert (config.checkpointing.save_steps, config.evaluation.eval_steps) == (0.5, "epoch")


def test_a_strategy_of_steps_says_how_many_that_is(write):
    (note,) = load(write("eval_strategy: steps\n")).notes
    assert "eval_steps says after how many, by default four times an epoch" in note


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learning_rat: 1", 'did you mean "learning_rate"? It belongs to the section training'),
        ("training:\n  learning_rat: 1", 'did you mean "learning_rate"?'),
        ("lora:\n  learning_rat: 1", "section training"),
        (
            "micro_batch_siz: 1",
            'did you mean "per_device_train_batch_size" (section training)? micro_batch_size is its',
        ),
        ("format: alpaca", "it is one of a dataset: data.datasets: [{path: ..., format: ...}]"),
        ("eval_stratgy: epoch", 'did you mean "eval_strategy"? Here that is eval_steps: "epoch"'),
        ("quantisation_bit: 8", "load_in_4bit: true"),
        ("deepsped: true", "remove the line (deepspeed is another engine)"),
        ("torch_compil: true", "remove the line: torch_compile has no effect here (Luthier brings its own kernels)"),
        ("datasets: [{path: a, subst: main}]", 'did you mean "name"?'),
        ("quantizaton: 4bit", 'did you mean "quantization" (a section)?'),
        ("training.learning_rat: 1", 'did you mean "learning_rate"?'),
        ("datasets: [{path: a, formt: text}]", 'did you mean "format"?'),
        ("datasets: [{pth: a}]", 'did you mean "path"?'),
        ("lora:\n  use_rora: true", 'did you mean "use_dora"?'),
        ("data:\n  datasetn: [a]", 'did you mean "datasets"?'),
        ("lora:\n  rr: 8", 'did you mean "r"?'),
        ("lora:\n  rnak: 8", 'did you mean "r" (section lora)? rank is its name in other tools'),
        ("zzzzzz: 1", "luthier schema"),
        ("<<: 1", "luthier schema"),
        ("pad_tokn: x", None),
    ],
)
def test_e_cfg_008_unknown_keys(refused, text, says):
    (problem,) = refused(text + "\n")
    assert problem.code == "E-CFG-008"
    assert says is None or says in problem.fix


@pytest.mark.parametrize("name", [*aliases.UNSUPPORTED, *aliases.DECIDED])
@pytest.mark.parametrize("more", ["new_{}", "{}_arguments", "no_{}_please"])
def test_no_key_that_is_refused_or_without_effect_is_ever_suggested(refused, name, more):
    word = more.format(name)
    if word in placing._known(""):
        pytest.skip("is known itself")
    (problem,) = refused(f"{word}: 3\n")
    suggested = re.findall('did you mean "([^"]+)"', problem.fix)
    assert not set(suggested) & ({*aliases.UNSUPPORTED, *aliases.DECIDED, *aliases.RENAMED} - set(by_name()))


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("max_train_samples: 500", 'split: "train[:500]"'),
        ("use_cpu: true", "CUDA_VISIBLE_DEVICES"),
        ("dataset_format: alpaca", "format: alpaca"),
        ("use_loftq: true", "init_lora_weights: pissa"),
        ("chat_template: qwen", "prompt_template: auto"),
        ("chat_template: chatml", "prompt_template: auto"),
        ("prompt_template: chatml", "prompt_template: auto"),
        ("rl: kto", "objective: dpo"),
        ("stage: ppo", "objective: dpo"),
        ("pref_loss: orpo", "objective: dpo"),
    ],
)
def test_what_is_written_in_place_of_a_refused_key_is_no_refused_key(refused, write, line, fix):
    (problem,) = refused(line + "\n")
    assert problem.code == "E-CFG-009" and fix in problem.fix
    written = problem.fix.removeprefix("remove the line").strip(" ()").partition(" (")[0].partition(", with")[0]
    if not written.startswith("for the CPU"):
        load(write(written.removeprefix("or ") + "\n"))


def test_padding_side_and_unsloths_name_for_the_loss_on_answers(write):
    loaded = load(write("padding_side: left\ntrain_on_responses_only: false\n"))
    assert not loaded.config.data.completion_only_loss and "padding_side" in loaded.notes[0]
