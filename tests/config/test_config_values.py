"""Values: types, ranges, paths, secrets, overrides; and every problem told at once, with its line and a fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.config.keys import closest, keys, source_keys
from luthier.config.load import from_dict, load
from luthier.config.schema import Config
from luthier.errors import ConfigError


def only(problems):
    assert len(problems) == 1, problems
    return problems[0]


def test_all_problems_are_reported_together_in_the_order_of_the_file(refused):
    problems = refused(
        "lora:\n  r: 0\n  rnk: 3\ntraining:\n  seed: 1.5\n  learning_rate: -1\nevaluation:\n  sample_steps: [1, two]\n",
        "logging_steps=0",
        "nonsense",
    )
    told = [(p.code, p.where.rpartition("/")[2]) for p in problems]
    assert told == [
        ("E-CFG-011", "c.yaml:2"), ("E-CFG-008", "c.yaml:3"), ("E-CFG-010", "c.yaml:5"), ("E-CFG-011", "c.yaml:6"),
        ("E-CFG-010", "c.yaml:8"), ("E-CFG-014", "command line"), ("E-CFG-011", "override logging_steps=..."),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "code", "fix"),
    [
        ('per_device_train_batch_size: "4"', "E-CFG-010", "per_device_train_batch_size: 4"),
        ("per_device_train_batch_size: 4.0", "E-CFG-010", "per_device_train_batch_size: 4"),
        ("max_seq_length: 1_024", "E-CFG-010", "max_seq_length: 1024"),
        ("max_seq_length: 1,024", "E-CFG-010", "max_seq_length: 1024"),
        ("learning_rate: 2,5e-4", "E-CFG-010", "learning_rate: 2.5e-4"),
        ("learning_rate: 0,0002", "E-CFG-010", "learning_rate: 2e-4"),
        ("val_set_size: 0,1", "E-CFG-010", "val_set_size: 0.1"),
        ("learning_rate: 1,2,3", "E-CFG-010", "for example `learning_rate: 2e-4`"),
        ('lora_dropout: "0.1"', "E-CFG-010", "lora_dropout: 0.1"),
        ("lora_dropout: 1.0", "E-CFG-011", "for example `lora_dropout: 0`"),
        ("load_in_4bit: yes", "E-CFG-010", "load_in_4bit: true"),
        ("load_in_4bit: 1", "E-CFG-010", "load_in_4bit: true"),
        ("load_in_4bit: [1]", "E-CFG-010", "load_in_4bit: false, or true"),
        ("load_in_4bit: ja", "E-CFG-010", "load_in_4bit: false, or true"),
        ("learning_rate: 0", "E-CFG-011", "for example `learning_rate: 2e-4`"),
        ("learning_rate: -2e-4", "E-CFG-011", "for example `learning_rate: 2e-4`"),
        ("learning_rate: .nan", "E-CFG-011", "for example `learning_rate: 2e-4`"),
        ("learning_rate: 1e999", "E-CFG-011", "for example `learning_rate: 2e-4`"),
        ("learning_rate: fast", "E-CFG-010", "for example `learning_rate: 2e-4`"),
        ("learning_rate:", "E-CFG-010", "for example `learning_rate: 2e-4`"),
        ("learning_rate: ${LR}", "E-CFG-010", "for example `learning_rate: 2e-4`"),
        ("r: 0", "E-CFG-011", "for example `r: 16`"),
        ('r: "0"', "E-CFG-010", "for example `r: 16`"),
        ("lr_scheduler_type: cosin", "E-CFG-011", "lr_scheduler_type: cosine"),
        ("optim: sgd", "E-CFG-011", "optim: auto"),
        ("packing: maybe", "E-CFG-011", "packing: auto"),
        ("memory_gib: 0", "E-CFG-011", "memory_gib: 6"),
        ("memory_gib: 6GiB", "E-CFG-011", "memory_gib: 6"),
        ("memory_gib: true", "E-CFG-010", "memory_gib: 6"),
        ("memory_gib: .inf", "E-CFG-011", "memory_gib: 6"),
        ("max_steps: 0", "E-CFG-011", "for example `max_steps: 1000`"),
        ("sample_prompts: hello", "E-CFG-010", 'sample_prompts: ["hello"]'),
        ("revision: 2", "E-CFG-010", 'revision: "2"'),
        ("report_to: [wandbb]", "E-CFG-011", 'report_to: ["tensorboard"]'),
        ("datasets: []", "E-CFG-011", 'for example `datasets: [{path: "train.jsonl"}]`'),
        ("datasets: [3]", "E-CFG-010", 'for example `datasets: [{path: "train.jsonl"}]`'),
        ("datasets: [{split: train}]", "E-CFG-010", "path: train.jsonl"),
        ("datasets: [{path: a.jsonl, weight: 0}]", "E-CFG-011", "for example `weight: 1`"),
        ("datasets: [{path: a.jsonl, format: alpacca}]", "E-CFG-011", "format: alpaca"),
        ("datasets: [{path: a.jsonl, columns: {a: 1}}]", "E-CFG-010", None),
    ],
)
def test_e_cfg_010_and_e_cfg_011_say_what_to_write(refused, line, code, fix):
    problem = only(refused(f"seed: 1\n{line}\n"))
    assert problem.code == code
    assert problem.where.endswith("c.yaml:2")
    assert fix is None or problem.fix == fix


def test_whole_number_is_fine_for_a_float(write):
    assert load(write("lora_alpha: 64\nnum_train_epochs: 1\n")).config.lora.lora_alpha == 64.0


def test_a_whole_number_with_decimals_says_so(refused):
    assert "3.0, but must be a whole number (no decimals)" in only(refused("r: 3.0\n")).found


def test_the_line_of_a_nested_value(refused):
    text = "data:\n  datasets:\n    - path: a.jsonl\n      weight: 1\n    - path: b.jsonl\n      weight: -1\n"
    assert only(refused(text)).where.endswith("c.yaml:6")


def test_paths_are_expanded(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("DATA", "/big")
    text = "output_dir: ~/runs/a b\ndatasets: ['${DATA}/x.jsonl']\nsample_prompts: ['what is ${HOME}?', '~']\n"
    config = load(write(text)).config
    assert config.training.output_dir == "/home/ada/runs/a b"
    assert config.data.datasets[0].path == "/big/x.jsonl"
    assert config.evaluation.sample_prompts == ["what is ${HOME}?", "~"]


@pytest.mark.parametrize("line", ["output_dir: ${NOT_THERE_1}/x", "datasets: [{path: '${NOT_THERE_1}'}]"])
def test_e_cfg_012_unset_variable(refused, monkeypatch, line):
    monkeypatch.delenv("NOT_THERE_1", raising=False)
    problem = only(refused(line))
    assert problem.code == "E-CFG-012"
    assert "NOT_THERE_1" in problem.found


NO_PATHS = ["output_dir: ''", 'output_dir: "a\\nb"', 'cache_dir: "a\\0b"', "dataset: ' '"]
NO_PATHS += ['dataset: "luthier:a\\0b"', "dataset: luthier:" + "x" * 300]
NO_PATHS += ["model_name_or_path: " + "x" * 256, "output_dir: out/" + "é" * 128 + "/run"]


@pytest.mark.parametrize("line", NO_PATHS)
def test_e_cfg_015_no_path(refused, line):
    assert only(refused(line)).code == "E-CFG-015"


SECRET = "hf_" + "aB3" * 10


@pytest.mark.parametrize(
    "line",
    [
        f"hf_token: {SECRET}", f"revision: {SECRET}", f"sample_prompts: ['use {SECRET}']", "wandb_api_key: 0a1b2c3d",
        "hub_token: ${HF_TOKEN}", f"output_dir: sk-{'a1' * 12}", f"datasets: [{{path: x, columns: {{a: {SECRET}}}}}]",
        "training:\n  password: hunter2",
    ],
)  # fmt: skip
def test_e_cfg_013_secrets_are_refused_and_never_shown(refused, line):
    problem = only(refused(line))
    assert problem.code == "E-CFG-013"
    assert not any(secret in problem.render() for secret in (SECRET, "0a1b2c3d", "hunter2", "a1a1"))


def test_e_cfg_013_in_an_override(refused):
    problem = only(refused("", f"revision={SECRET}"))
    assert (problem.code, problem.where) == ("E-CFG-013", "override revision=...")
    assert SECRET not in problem.render()


def test_e_cfg_010_half_characters(refused):
    assert only(refused('output_dir: "\\ud800"')).code == "E-CFG-010"


def test_overrides_win_and_find_their_section(write):
    path = write("training:\n  learning_rate: 2e-4\nlora:\n  r: 0\n")
    overrides = [
        "learning_rate=1e-4",
        "lora.r=32",
        "data.datasets=[{path: x.jsonl}]",
        "seed = 7",
        "lr_scheduler=linear",
    ]
    loaded = load(path, overrides)
    assert (loaded.config.training.learning_rate, loaded.config.lora.r, loaded.config.training.seed) == (1e-4, 32, 7)
    assert loaded.config.data.datasets[0].path == "x.jsonl"
    assert loaded.config.training.lr_scheduler_type == "linear"
    assert loaded.sources["lora.r"] == "override"
    assert len(loaded.notes) == 1
    assert "lr_scheduler (override lr_scheduler=...)" in loaded.notes[0]


def test_an_override_can_hold_equals_signs_and_nothing(write):
    loaded = load(write("max_steps: 3\n"), ["output_dir=a=b", "max_steps="])
    assert loaded.config.training.output_dir == "a=b"
    assert loaded.config.training.max_steps is None


@pytest.mark.parametrize("override", ["learning_rate", "=3", "", "  =x", "\u202etxt", "x" * 300])
def test_e_cfg_014_no_override(refused, override):
    problem = only(refused("", override))
    assert problem.code == "E-CFG-014"
    assert problem.fix.isprintable() and len(problem.fix) < 150


@pytest.mark.parametrize(
    ("overrides", "fix"),
    [
        (["learning_rate=1e-4", "base.yaml"], "it comes first: base.yaml"),
        (["learning_rate", "1e-3"], "write learning_rate=1e-3"),
        (["seed=1", "learning_rate", "=", "1e-3"], "write learning_rate=1e-3"),
        (["lr", "1e-3", "r", "8"], "write lr=1e-3 r=8"),
    ],
)
def test_words_that_belong_together_are_one_problem(refused, overrides, fix):
    problem = only(refused("", *overrides))
    assert problem.code == "E-CFG-014" and fix in problem.fix


def test_an_unknown_or_broken_override(refused):
    problem = only(refused("", "learning_rat=1"))
    assert (problem.code, problem.where) == ("E-CFG-008", "override learning_rat=...")
    assert '"learning_rate"' in problem.fix
    assert only(refused("", "report_to=[")).code == "E-CFG-004"


def test_e_cfg_006_an_override_twice_is_told_as_overrides(refused):
    problem = only(refused("seed: 3\n", "seed=1", "training.seed=2"))
    assert (problem.code, problem.where) == ("E-CFG-006", "override training.seed=...")
    assert problem.found == "training.seed is set to 1 by one override, and to 2 by a later one"
    assert "overrides" in problem.fix and "YAML" not in problem.render()


def test_from_dict_has_the_same_checks():
    loaded = from_dict({"lora": {"r": 8}, "learning_rate": 1e-4, "output_dir": Path("runs")}, ["seed=3"])
    assert loaded.config.lora.r == 8
    assert loaded.config.training.output_dir == "runs"
    assert loaded.sources["lora.r"] == "dict"
    assert loaded.path == Path("dict")
    with pytest.raises(ConfigError, match=r"E-CFG-011  dict: r is 0"):
        from_dict({"lora": {"r": 0}})
    with pytest.raises(ConfigError, match="E-CFG-010"):
        from_dict({"lora": {"r": object()}})
    loop: dict[str, object] = {}
    loop["lora"] = loop
    with pytest.raises(ConfigError, match="E-CFG-007"):
        from_dict(loop)


def test_names_are_unique_over_sections_and_values_to_start_from_are_valid():
    names = [key.name for key in keys().values()]
    assert len(names) == len(set(names))
    for key in keys().values():
        Config.model_validate({key.section: {key.name: key.typical}})
    assert all(key.text.endswith(".") or key.text.endswith("`.") for key in (*keys().values(), *source_keys().values()))


def test_closest_is_silent_when_nothing_is_near():
    assert closest("qqqqqq", {"learning_rate": 0.0, "seed": 0.0}) is None
    assert closest("Learning_Rate", {"learning_rate": 0.0, "seed": 0.0}) == "learning_rate"
