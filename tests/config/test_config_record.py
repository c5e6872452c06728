"""Reading the record of a run: what stays decided, what is derived anew, and what is no record."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import yaml

from luthier.config.load import load
from luthier.config.record import load_record, seal
from luthier.config.render import dump_plan_yaml
from luthier.config.resolve import resolve
from luthier.errors import ConfigError

FACTS = {
    "passes": {"micro_batch_tokens": 3000, "checkpointed_layers": 2, "unpack_once": True},
    "lean_path": False,
    "inputs": {},
}


@pytest.fixture
def recorded(plan, tmp_path):
    """Writes the plan.yaml of a plan with these overrides; returns the plan and the file."""

    def write(*overrides):
        path = tmp_path / "plan.yaml"
        made = plan(*overrides)
        path.write_text(seal(dump_plan_yaml(made, {"record": FACTS})))
        return made, path

    return write


def test_what_the_machine_decided_stays_and_what_follows_is_derived_anew(recorded):
    made, path = recorded("warmup_ratio=0.1", "dtype=auto", "resume_from_checkpoint=auto")
    loaded = load_record(path)
    config, decided = loaded.config, made.config
    assert config.model.dtype == decided.model.dtype == "bfloat16"
    assert config.training.packing is decided.training.packing is True
    assert config.training.max_tokens_per_micro_batch == decided.training.max_tokens_per_micro_batch
    assert config.training.optim == decided.training.optim != "auto"
    assert config.training.lean_path is False
    assert decided.training.warmup_steps and config.training.warmup_steps is None
    assert decided.evaluation.eval_steps and config.evaluation.eval_steps is None
    assert config.training.gradient_checkpointing == "auto" and loaded.record.passes.checkpointed_layers == 2
    assert config.logging.logging_dir is None and config.checkpointing.resume_from_checkpoint is None


@pytest.mark.parametrize("edited", [False, True])
def test_a_record_given_as_the_config_is_told_from_one(recorded, edited):
    _, path = recorded()
    if edited:  # as one would who was told to remove its last line
        path.write_text(path.read_text().rpartition("sha256: ")[0])
    for given in (path, path.parent):
        with pytest.raises(ConfigError) as error:
            load(given)
        (problem,) = error.value.problems
        assert problem.code == "E-CFG-001" and f"luthier train --from {given}" in problem.fix


def test_it_goes_beside_the_run_unless_told_otherwise(recorded):
    _, path = recorded("output_dir=runs/a")
    assert load_record(path).config.training.output_dir == "runs/a-again"
    assert load_record(path.parent).config.training.output_dir == "runs/a-again"
    other = load_record(path, ["output_dir=b", "seed=7"])
    assert other.config.training.output_dir == "b" and other.config.training.seed == 7
    assert set(other.record.changed) == {"training.output_dir", "training.seed"}


def test_epochs_and_shares_are_counted_anew(recorded):
    made, path = recorded("save_steps=epoch", "eval_steps=0.25", "logging_steps=0.01", "max_steps=100")
    assert (made.save_every, made.eval_every, made.log_every) == (1106, 25, 1)
    config = load_record(path).config
    asked = (config.checkpointing.save_steps, config.evaluation.eval_steps, config.logging.logging_steps)
    assert asked == ("epoch", 0.25, 0.01)
    assert load_record(path, ["eval_steps=7"]).config.evaluation.eval_steps == 7


def test_evaluation_that_was_switched_off_is_off_again(plan, recorded, tmp_path):
    config = {"evaluation": {"load_best_model_at_end": True, "early_stopping_patience": 3}}
    made = plan("val_set_size=0", config=config, data={"eval_rows": 0})
    path = tmp_path / "off.yaml"
    path.write_text(seal(dump_plan_yaml(made, {"record": FACTS})))
    again = load_record(path)
    data = replace(made.data, eval_rows=0)
    assert resolve(again, made.machine, made.model, data).config.evaluation == made.config.evaluation


def test_what_was_written_stays_as_it_was_written(recorded):
    _, path = recorded("warmup_steps=7", "eval_steps=11", "logging_dir=elsewhere", "auto=false")
    config = load_record(path).config
    assert (config.training.warmup_steps, config.evaluation.eval_steps) == (7, 11)
    assert config.logging.logging_dir == "elsewhere"
    assert config.training.max_tokens_per_micro_batch == "auto", "auto is false: nothing was chosen"


def test_text_that_looks_like_a_number_comes_back_as_text(recorded):
    _, path = recorded("revision='12e45'", "sample_prompts=['1e5', 'no', ' a: b ', \"x\\ny\", '0x1']")
    config = load_record(path).config
    assert config.model.revision == "12e45"
    assert config.evaluation.sample_prompts == ["1e5", "no", " a: b ", "x\ny", "0x1"]


def test_an_override_that_is_wrong_is_named_as_ever(recorded):
    _, path = recorded()
    with pytest.raises(ConfigError, match="E-CFG-008"):
        load_record(path, ["learning_rat=1"])


def test_e_cfg_040_a_damaged_record_is_one_clear_error(recorded):
    _, path = recorded()
    whole = path.read_bytes()
    rng = random.Random(1)
    for trial in range(200):
        data = bytearray(whole)
        place = rng.randrange(len(data))
        if trial % 2:
            data = data[:place]
        else:
            data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            load_record(path)
        except ConfigError as error:
            (problem,) = error.problems
            assert problem.code in ("E-CFG-040", "E-CFG-002"), (trial, error)
        else:  # white space after the hash
            assert data.strip() == whole.strip(), trial


def test_e_cfg_040_a_record_that_lacks_a_part(recorded):
    _, path = recorded()
    content = yaml.safe_load(path.read_text().rpartition("sha256: ")[0])
    for part in ("record", "config", "decided"):
        path.write_text(seal(yaml.safe_dump({key: value for key, value in content.items() if key != part})))
        with pytest.raises(ConfigError, match="E-CFG-040"):
            load_record(path)
