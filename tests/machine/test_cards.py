"""Cards that need not be here: the facts that follow, and the plan on screen."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import luthier
from luthier.errors import MissingError
from luthier.machine.cards import CARDS, Card, as_if
from luthier.machine.probe import probe
from tests.cli.support import run_here, write_config
from tests.rows import machine


@pytest.mark.parametrize(
    ("name", "gib", "bfloat16", "fp8"),
    [
        ("H200", 139.8, True, True),
        ("H100", 79.1, True, True),
        ("l40s", 44.4, True, True),
        ("4090", 23.6, True, True),
        ("t4", 14.5, False, False),
        ("A100 80GB", 79.1, True, False),
        ("nvidia a100-40gb", 39.3, True, False),
        ("rtx4090", 23.6, True, True),
        ("NVIDIA GeForce RTX 4090", 23.6, True, True),
        ("RTX 3060", 11.6, True, False),
        ("A10", 22.0, True, False),
        ("V100-16", 15.7, False, False),
    ],
)
def test_what_a_card_can_do(name, gib, bfloat16, fp8):
    here = machine(cpu_cores=7)
    facts = as_if(name, here)
    assert facts.free_memory_gib == facts.memory_gib == gib
    assert (facts.device, facts.supports_bfloat16, facts.supports_fp8) == ("cuda", bfloat16, fp8)
    assert facts.cpu_cores == 7 and not facts.is_here
    assert here.is_here and probe().is_here


def test_the_table_of_the_guide_is_this_one():
    text = (Path(__file__).parents[2] / "docs" / "memory.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \| ([\d.]+) GiB \| (\d)\.(\d) \|", text, re.MULTILINE)
    assert {name: Card(full, float(gib), (int(a), int(b))) for name, full, gib, a, b in rows} == CARDS


def test_a_card_that_nobody_knows():
    with pytest.raises(MissingError) as caught:
        as_if("B9000", machine())
    (problem,) = caught.value.problems
    assert problem.code == "E-ENV-009" and problem.found == f"'B9000' is none of {', '.join(CARDS)}"
    assert "in GiB: 4060 7.6, 3060 11.6, T4 14.5, V100-16 15.7, L4 22" in problem.fix


def test_a_card_of_which_there_are_several():
    with pytest.raises(MissingError) as caught:
        as_if("a100", machine())
    assert caught.value.problems[0].fix == "write --for A100-80 or --for A100-40"


@pytest.fixture
def config(tmp_path, tiny_model_dir, alpaca_file):
    path = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "run")
    path.write_text(path.read_text("utf-8").replace("dtype: float32", "dtype: auto"), "utf-8")
    return path


def test_the_plan_is_made_for_the_card_and_says_so(capsys, config):
    h200 = run_here(capsys, "plan", config, "--for", "H200", "lean_path=true", "load_in_4bit=true")
    assert h200.code == 0 and h200.out.startswith("A prediction for NVIDIA H200, which is not here")
    text = " ".join(h200.out.split())
    assert "No number below was measured on such a card." in text
    assert "computing in bfloat16" in text and "139.8 GiB are there" in text
    assert "the lean path, on its kernels, 4-bit weights unpacked once and kept" in text
    assert "1 weights" in text and "process" not in text, "the memory of the card, not of this process"
    little = run_here(capsys, "plan", config, "--for", "H200", "memory_gib=0.001")
    assert little.code == 0
    assert "training.memory_gib is 0.001. It does not fit." in " ".join(little.out.split())
    assert "the longest row; no more fits into the 0.001 GiB of training.memory_gib" in " ".join(little.out.split())
    t4 = run_here(capsys, "plan", config, "--for", "t4")
    assert "computing in float16" in " ".join(t4.out.split()) and "14.5 GiB are there" in t4.out
    here = run_here(capsys, "plan", config)
    assert "prediction" not in here.out


def test_what_a_card_cannot_do_is_refused_as_it_would_be_there(capsys, config):
    for wanted, code in (("base_precision=fp8", "E-CFG-035"), ("dtype=bfloat16", "E-CFG-023")):
        result = run_here(capsys, "plan", config, "--for", "T4", wanted)
        assert result.code == 2 and code in result.err and "Tesla T4" in result.err
    assert run_here(capsys, "plan", config, "--for", "L40S", "base_precision=fp8").code == 0


def test_wrong_requests(capsys, config):
    unknown = run_here(capsys, "plan", config, "--for", "H900")
    assert unknown.code == 2 and "E-ENV-009" in unknown.err and ", ".join(CARDS) in unknown.err
    both = run_here(capsys, "plan", config, "--for", "T4", "--check")
    assert both.code == 2 and "--check tries what is here" in " ".join(both.err.split())


def test_what_does_not_fit_is_said(config, monkeypatch):
    monkeypatch.setitem(CARDS, "T4", replace(CARDS["T4"], memory_gib=0.0))
    plan, missing = luthier.plan(config, card="T4")
    assert missing == () and plan.memory.gib > plan.memory.room_gib == 0
