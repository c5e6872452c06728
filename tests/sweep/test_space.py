"""What is tried: the grammar, and what the schema of the config says to it before the first trial."""

from __future__ import annotations

import pytest

from luthier.config.load import load
from luthier.errors import ConfigError
from luthier.sweep.finder import find_rate
from luthier.sweep.space import Range, read_space, value_of
from tests.cli.support import ROOT


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"training: {{output_dir: {tmp_path}/out, learning_rate: 1e-4}}\ndata: {{datasets: rows.jsonl}}\n")
    return path


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("lr=log:1e-4..1e-3", Range("training.learning_rate", "log:1e-4..1e-3", low=1e-4, high=1e-3, log=True)),
        ("lora.lora_dropout=0..0.2", Range("lora.lora_dropout", "0..0.2", low=0, high=0.2)),
        ("warmup_steps=int:0..100", Range("training.warmup_steps", "int:0..100", low=0, high=100, whole=True)),
        ("lora_r=log:8..64", Range("lora.r", "log:8..64", low=8, high=64, log=True, whole=True)),
        ("weight_decay=.01..1.", Range("training.weight_decay", ".01..1.", low=0.01, high=1.0)),
        ("lora.r=8,16, 32", Range("lora.r", "8,16, 32", ("8", "16", "32"))),
        ("use_dora=true,false", Range("lora.use_dora", "true,false", ("true", "false"))),
        ("lr_scheduler_type=cosine,wsd", Range("training.lr_scheduler_type", "cosine,wsd", ('"cosine"', '"wsd"'))),
        ("target_modules=all-linear,[q_proj, v_proj]",
         Range("lora.target_modules", "all-linear,[q_proj, v_proj]", ('"all-linear"', '["q_proj", "v_proj"]'))),
    ],
)  # fmt: skip
def test_ranges(config, word, read):
    space = read_space(config, [word, "seed=7"])
    assert space.ranges == (read,) and space.loaded.config.training.seed == 7 and not space.finder
    assert space.combinations == (len(read.choices) or None)
    for value in read.ends:
        loaded = load(config, [f"{read.key}={value}"])
        section, _, name = read.key.partition(".")
        assert getattr(getattr(loaded.config, section), name) == value_of(value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lora.r=8", "learning_rate=1e-4..x"], "no range to try in lora.r=8, learning_rate=1e-4..x"),
        ([], "no range to try"),
        (["learning_rte=log:1e-4..1e-3"], 'did you mean "learning_rate"'),
        (["learning_rate=log:1e-3..1e-4"], "learning_rate=1e-4..1e-3"),
        (["weight_decay=log:0..1e-3"], "weight_decay=log:1e-5..1e-3"),
        (["learning_rate=-1e-3..1e-3"], "learning_rate is -0.001, but must be a number above 0"),
        (["lora.r=8.5..16"], "no whole number"),
        (["lora.r=8,0"], "r is 0, but must be a whole number of at least 1"),
        (["lr_scheduler_type=cosine,linnear"], "linear"),
        (["learning_rate=log:a..b"], "is no range"),
        (["lora.r=8,16", "lora_r=4,8"], "lora.r stands twice"),
        (["lora.r=8,16", "r=4"], "lora.r has a value and a range"),
        (["lora.r=8,8"], "holds a value twice"),
        (["val_set_size=0.1,0.2"], "cannot be tried: losses on other held-out rows cannot be compared"),
        (["seed=1,2"], "cannot be tried: the lowest loss of several seeds is luck"),
        (["dpo.beta=0.1,0.3"], "cannot be tried: losses that are formed in another way cannot be compared"),
        (["objective=sft,dpo"], "cannot be tried: losses that are formed in another way cannot be compared"),
        (["output_dir=a,b"], "cannot be tried: no loss depends on it"),
        (["adapter=lora,qlora"], "is no single key here"),
        (["optim=adamw_8bit,adamw"], "optim"),
        (["learning_rate", "lora.r=8,16"], "learning_rate has no range beside other ranges"),
        (["learning_rate", "rank"], '"rank" is no override'),
        (["\x1b[31m=1..2"], "unknown key"),
    ],
)
def test_e_sweep_001_and_what_the_config_says(config, words, said):
    with pytest.raises(ConfigError) as caught:
        read_space(config, words)
    assert said in str(caught.value) and "\x1b" not in str(caught.value)
    assert {problem.code for problem in caught.value.problems} <= {
        "E-SWEEP-001", "E-CFG-008", "E-CFG-010", "E-CFG-011", "E-CFG-014",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["learning_rate=log:1e-5..1e-3", "min_learning_rate=5e-5"], {"E-CFG-026": ["5e-5", "1e-5"]}),
        (["learning_rate", "min_learning_rate=0.05"], {"E-CFG-026": ["0.05", "0.01"]}),
        (["warmup_steps=int:0..50", "max_steps=50"], {"E-CFG-030": ["warmup_steps: 50"]}),
        (["init_lora_weights=default,pissa", "load_in_4bit=false,true"], {"E-CFG-028": ["load_in_4bit: true"]}),
        (["lora_dropout=0..0.1", "weight_decay=0..0.1", "r=1,2,3,4,5,6,7,8", "lora_alpha=1,2,3,4,5,6,7,8",
          "init_lora_weights=default,pissa", "load_in_4bit=false,true"], {"E-CFG-028": ["pissa"]}),
        (["learning_rate=1e-5,1e-4", "min_learning_rate=0,1e-6"], {}),  # the floor of the config holds for none of them
        (["optim=adamw_torch,paged_adamw_8bit"], {}),  # some machine can
        (["dtype=float16,float32", "base_precision=fp8"], {}),
        (["warmup_steps=int:0..50"], {}),  # of how many is not known yet
    ],
)  # fmt: skip
def test_what_cannot_stand_together_in_a_trial_is_said_before_the_first(config, words, said):
    if not said:
        config.write_text(config.read_text().replace("1e-4}", "1e-4, min_learning_rate: 5e-5}"))
        read_space(config, words)
        return
    with pytest.raises(ConfigError) as caught:
        read_space(config, words)
    assert {problem.code for problem in caught.value.problems} == {*said}
    for each in said.values():
        assert all(word in str(caught.value) for word in each)


def test_everything_wrong_is_said_at_once(config):
    with pytest.raises(ConfigError) as caught:
        read_space(config, ["learning_rate=2..1", "r=0,4,-1", "seed=1,2"])
    assert len(caught.value.problems) == 2  # the schema is asked when the ranges are ranges
    with pytest.raises(ConfigError) as caught:
        read_space(config, ["r=0,4,-1", "lora_dropout=0..1"])
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("word", ["val_set_size=0", "eval_steps=0"])
def test_e_sweep_002_without_an_evaluation(config, word):
    with pytest.raises(ConfigError, match="E-SWEEP-002"):
        read_space(config, ["lora.r=8,16", word])


def test_the_finders_rates_are_equal_factors_apart(config):
    space = find_rate(read_space(config, ["learning_rate"]), 4000, 7)
    assert [value_of(rate) for rate in space.ranges[0].choices] == [1e-5, 3.2e-5, 1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2]
    assert space.fixed == ("training.max_steps=200",)
    assert find_rate(space, 400, 2).fixed == ("training.max_steps=40",)
    assert find_rate(space, 9, 2).fixed == ("training.max_steps=9",)


def test_the_finder_looks_above_the_floor_of_the_schedule(config):
    space = find_rate(read_space(config, ["learning_rate", "min_learning_rate=5.55e-5"]), 4000, 3)
    assert [value_of(rate) for rate in space.ranges[0].choices] == [5.55e-5, 7.4e-4, 1e-2]
    assert read_space(ROOT / "configs" / "training_config.yaml", ["learning_rate"]).finder  # as the guide has it


def test_the_rates_for_pairs_are_lower(config):
    space = find_rate(read_space(config, ["learning_rate", "objective=dpo"]), total_steps=3000, trials=3)
    assert [value_of(rate) for rate in space.ranges[0].choices] == [1e-6, 3.2e-5, 1e-3]


def test_the_finders_warmup_is_the_same_share(config):
    space = read_space(config, ["learning_rate", "warmup_steps=50"])
    assert find_rate(space, 400, 2).fixed == ("training.max_steps=40", "training.warmup_steps=5")
    assert find_rate(space, 51, 2).fixed == ("training.max_steps=40", "training.warmup_steps=39")
