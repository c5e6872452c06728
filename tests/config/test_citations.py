"""The papers of the methods that a run uses."""

from __future__ import annotations

import re
import shutil
from typing import get_args

import pytest
from tests.cli.support import run_here, write_config
from tests.rows import machine

from luthier.config.citations import METHODS, SOME, citations, methods
from luthier.config.keys import keys
from luthier.config.load import from_dict
from luthier.config.plan import Passes
from luthier.config.resolve import resolve
from luthier.config.schema import Optimizer, Schedule

ALWAYS = ["AdamW", "gradient clipping"]


def plan(*overrides: str, checkpointed: int = 0):
    loaded = from_dict({"training": {"optim": "adamw_torch"}}, overrides)
    return resolve(loaded, machine(), None, None, passes=Passes(4096, checkpointed))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["load_in_4bit=false", "lr_scheduler_type=linear"], ["LoRA"]),
        (["load_in_4bit=true"], ["LoRA", "QLoRA", "cosine schedule"]),
        (["load_in_4bit=false", "use_dora=true", "lr_scheduler_type=wsd"], ["LoRA", "DoRA", "warmup-stable-decay"]),
        (["load_in_4bit=false", "use_rslora=true", "init_lora_weights=pissa", "lr_scheduler_type=constant"],
         ["LoRA", "rsLoRA", "PiSSA"]),
        (["finetuning_type=full", "load_in_4bit=false", "use_dora=true", "lr_scheduler_type=linear"], []),
    ],
)  # fmt: skip
def test_it_names_what_the_run_uses_and_nothing_else(overrides, named):
    assert sorted(name for name, _, _ in methods(plan(*overrides))) == sorted([*named, *ALWAYS])


def test_numbers_count_when_they_are_more_than_0():
    assert "gradient clipping" not in [name for name, _, _ in methods(plan("max_grad_norm=0"))]
    assert ("gradient checkpointing", "checkpointed_layers: 3") in [told[:2] for told in methods(plan(checkpointed=3))]


def test_every_key_and_value_is_one_that_a_plan_can_have():
    known = {*keys(), *(f"plan.{value.key}" for value in plan().values if not value.is_key)}
    for key, value in METHODS:
        assert key in known
        if not key.startswith("plan."):
            from_dict({}, [f"{key}={1.0 if value == SOME else str(value).lower()}"])
    assert {value for key, value in METHODS if key == "training.optim"} == {*get_args(Optimizer)} - {"auto"}
    cited = {value for key, value in METHODS if key == "training.lr_scheduler_type"}
    assert cited == {*get_args(Schedule)} - {"constant", "linear"}


def test_the_entries_are_bibtex_and_each_stands_once():
    references = {reference for _, reference in METHODS.values()}
    assert len({reference.key for reference in references}) == len(references)
    for reference in references:
        entry = reference.bibtex
        head = re.match(r"@(inproceedings|article)\{([a-z]+\d{4}[a-z]*\d?),\n", entry)
        assert head and head[2] == reference.key and str(reference.year) in entry
        assert entry.count("{") == entry.count("}") and entry.endswith("}")
        assert ("booktitle" in entry) == (head[1] == "inproceedings") and "@" not in entry[1:]
        assert all(", " in name or name == "others" for name in reference.authors.split(" and "))
    text = citations(plan("load_in_4bit=true", checkpointed=1), 80)
    table, *entries = text.split("\n@")
    assert "@" not in table and len(entries) == 6 and max(map(len, table.splitlines())) <= 80


def test_of_a_run_that_was_made_even_where_its_base_is_gone(tmp_path, tiny_model_dir, alpaca_file, capsys):
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    config = write_config(tmp_path / "c.yaml", base, alpaca_file, tmp_path / "out", max_steps=1)
    assert run_here(capsys, "train", config, "use_rslora=true", "report_to=[]").code == 0
    record = tmp_path / "out" / "plan.yaml"
    told = run_here(capsys, "plan", "--from", record, "--cite")
    assert told.code == 0 and "rsLoRA" in told.out and "@article{kalajdzievski2023rslora," in told.out
    shutil.rmtree(base)
    assert run_here(capsys, "plan", "--from", record, "--cite").out == told.out
    assert run_here(capsys, "plan", "--from", record, "--cite", "--check").code == 2
