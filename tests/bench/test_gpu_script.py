"""benchmarks/gpu.py in its toy size, for real, and what it does when time or a library is missing."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from luthier.bench.base import functions, make_tokenizer
from luthier.errors import Problem, RunError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
sys.path.insert(0, str(SCRIPT.parent))  # as it is when the script is run
spec = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
gpu = importlib.util.module_from_spec(spec)
sys.modules["gpu_script"] = gpu
spec.loader.exec_module(gpu)
headline = sys.modules["headline"]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_toy_runs_from_end_to_end(tmp_path):
    parts = (
        "limit",
        "luthier",
        "luthier-3gb",
        "luthier-bf16",
        "luthier-fp8",
        "fp8-gate",
        "headline",
        "trl-liger",
        "unsloth",
    )  # kernels and TRL have tests of their own
    only = [word for part in parts for word in ("--only", part)]
    file = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--toy", *only, "--minutes", "14", "--json", str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    content = json.loads(file.read_text())
    assert content["failed"] == {} and content["skipped"] == [] and content["toy"]
    assert content["limit_flops_by_rows"]["64"] > 1e6
    assert {"trl-liger", "unsloth"} == set(content["missing"])
    rows = {row["part"]: row for row in content["rows"]}
    assert list(rows) == ["luthier", "luthier-3gb", "luthier-bf16", "luthier-fp8"]
    assert 0 < rows["luthier-fp8"]["largest_loss_difference"] < 0.02 * rows["luthier-fp8"]["losses"][0]
    gate = content["fp8_gate"]
    assert gate["passed"] and all(0 < share <= 0.003 for share in gate["differences"])
    assert [len(losses) for losses in gate["eval_losses"].values()] == [3, 3]
    assert content["headline"]["step"] == 3 and content["headline"]["num_tokens"] > 3000
    assert content["headline"]["wall_seconds"] > content["headline"]["train_runtime"] > 0
    assert all(len(row["losses"]) == 3 and row["tokens_per_second"] > 0 for row in rows.values())
    assert content["settings"]["nf4"]["steps"] == 3
    assert {"torch", "peft"} <= content["versions"].keys()
    assert content["settings"]["nf4"]["trained_share"] == pytest.approx(0.65, abs=0.05)
    assert "no speed in it means anything" in done.stdout and "unsloth not installed" in done.stdout


def test_the_shape_is_that_of_llama_3_2_1b():
    config = LlamaConfig(**headline.LLAMA_3_2_1B, tie_word_embeddings=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == 1_235_814_400


def test_rows_are_as_long_as_they_should_be_and_none_is_there_twice(tmp_path):
    texts = [text for text, _ in zip(functions(), range(200), strict=False)]
    make_tokenizer(texts, 1000, tmp_path)
    headline.write_rows(tmp_path / "rows.jsonl", tmp_path, 400)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    lengths = [
        [len(tokenizer(row[key], add_special_tokens=False)["input_ids"]) for key in ("prompt", "completion")]
        for row in rows
    ]
    tokens = [sum(pair) for pair in lengths]
    assert sum(tokens) / len(tokens) == pytest.approx(headline.MEAN_TOKENS, rel=0.08)
    assert sum(pair[1] for pair in lengths) / sum(tokens) == pytest.approx(headline.TRAINED_SHARE, abs=0.03)
    fours = [max(tokens[i : i + 4]) for i in range(0, 400, 4)]
    assert 1.25 < sum(fours) / len(fours) / (sum(tokens) / len(tokens)) < 1.55
    assert len({row["prompt"] for row in rows}) == 400


def fails():
    raise RunError(Problem("E-RUN-006", "unsloth: no kernel image", "run it again"))


def test_8_bit_floats_that_cost_more_than_the_gate_allows_fail_it(tmp_path, monkeypatch):
    asked = argparse.Namespace(toy=True, steps=3)
    report = gpu.Report(None, time.monotonic() + 60)
    losses = {"default": [2.0, 2.0, 2.0], "fp8": [2.004, 1.997, 2.0]}
    monkeypatch.setattr(gpu, "write_rows", lambda *_: None)
    monkeypatch.setattr(gpu, "run_arm", lambda *_: ({"eval_losses": losses}, 1.0))
    assert report.part("fp8-gate", lambda: gpu.fp8_gate(asked, report, tmp_path / "one", tmp_path))
    for number, wrong in enumerate((2.007, 1.99, float("nan"))):
        losses["fp8"][1], folder = wrong, tmp_path / str(number)
        assert not report.part("fp8-gate", lambda folder=folder: gpu.fp8_gate(asked, report, folder, tmp_path))
        assert not report.content["fp8_gate"]["passed"]


def test_a_card_without_8_bit_floats_misses_their_parts(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "probe", lambda: argparse.Namespace(supports_fp8=False))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--toy", "--only", "luthier-fp8", "--only", "fp8-gate"])
    with pytest.raises(SystemExit) as stopped:
        gpu.main()
    assert stopped.value.code == 0
    assert capsys.readouterr().out.count("this card does not multiply 8-bit floats") == 2


def late():
    raise subprocess.TimeoutExpired(["pytest"], 3.0)


def test_what_fails_or_comes_too_late_is_named_and_ends_nothing(tmp_path):
    report = gpu.Report(
        tmp_path / "r.json",
        time.monotonic() + 60,
    )
    report.content["toy"] = False
    assert report.part("luthier", lambda: None)
    assert not report.part("unsloth", fails)
    assert not report.part("kernels", late)
    report.deadline = 0
    assert not report.part("trl", lambda: None)
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["failed"]["unsloth"] == "unsloth: no kernel image"
    assert "timed out" in written["failed"]["kernels"]
    assert written["skipped"] == ["trl"]
    text = gpu.table(written)
    assert "skipped  trl: no time left" in text and "failed   unsloth: unsloth: no kernel image" in text
    assert "toy" not in text


def test_a_part_whose_process_is_killed_ends_no_other(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -9 $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    report = gpu.Report(None, time.monotonic() + 60)
    assert not report.part("limit", lambda: gpu.limit(report, tmp_path, "float32", toy=True))
    assert not report.part("kernels", lambda: gpu.kernels(report, toy=True))
    assert report.content["failed"] == dict.fromkeys(("limit", "kernels"), "ended with code -9")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "3", "--warm-up", "3"], "leaves none of 3 steps"),
        (["--only", "deepspeed"], "invalid choice"),
        ([], "there is no CUDA device"),
    ],
)
def test_bad_requests(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        gpu.main()
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_an_arm_imports_nothing_that_unsloth_patches_before_it_is_run():
    program = (
        "import sys, luthier.bench.arms; sys.exit(bool({'torch', 'transformers', 'trl', 'peft'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
