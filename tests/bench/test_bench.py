"""Luthier beside TRL, for real, on a tiny model: the same rows, the same losses, and the verdict when they differ."""

from __future__ import annotations

import json
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from typer.testing import CliRunner

from luthier.bench import compare as comparison
from luthier.bench.base import functions, make_tokenizer
from luthier.bench.compare import Comparison, Row, needed_work
from luthier.bench.limit import matmul_limit, shapes, work
from luthier.bench.peers import pairs_of
from luthier.bench.screen import as_json, table
from luthier.cli.main import app, main
from luthier.data.rows import TokenRow
from luthier.errors import RunError

TINY = LlamaConfig(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip


def run(folder, *arguments):
    result = CliRunner().invoke(app, ["bench", "cpu", *arguments, "--repeats", "1", "--json", str(folder / "b.json")])
    assert result.exit_code == 0, result.output
    return result.output, json.loads((folder / "b.json").read_text())


@pytest.fixture(scope="module")
def measured(tiny_model_dir, tmp_path_factory):
    """One comparison through the command line, TRL included."""
    folder = tmp_path_factory.mktemp("bench")
    base = folder / "base"  # in the format that models are published in, so that every system reads the same numbers
    AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(base)
    rows = folder / "rows.jsonl"
    lines = [
        {"instruction": f"Add {n} to x", "output": f"def f(x):\n    return x + {n}" * (1 + n % 5)} for n in range(90)
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    keys = [f"model_name_or_path={base}", f"data.datasets=[{{path: {rows}}}]", "learning_rate=1e-3"]
    return run(folder, *keys, "--steps", "3", "--warm-up", "1")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_system_trained_the_same(measured):
    output, content = measured
    rows = content["rows"]
    assert [(row["system"], row["lane"]) for row in rows] == [
        ("luthier", "defaults"), ("luthier", "peft's layers"), ("trl", "defaults"), ("trl", "tuned"),
    ]  # fmt: skip
    setting = content["setting"]
    first, tolerance = rows[0]["losses"], {"float32": 1e-3, "bfloat16": 5e-3}[setting["dtype"]]
    reference = setting["reference_losses"]
    assert len(first) == 3 and first[-1] != first[0]
    assert (reference == first) is (setting["dtype"] == "float32")
    for row in rows:
        assert row["losses"] == pytest.approx(reference, abs=tolerance)
        apart = max(abs(a - b) for a, b in zip(row["losses"], reference, strict=True))
        assert row["largest_loss_difference"] == pytest.approx(apart, abs=1e-9) and apart <= tolerance
        assert row["tokens_per_second"] > row["trained_tokens_per_second"] > 0
        assert row["wall_seconds"] > 0 and row["peak_memory_gib"] > 0.1 and 0 < row["share_of_limit"] < 1.5
    assert setting["steps"] == 3 and setting["tokens_per_step"] > 0 and setting["limit_flops"] > 1e6
    assert {"trl", "peft", "bitsandbytes"} <= setting["peers"].keys() and "torch" in setting["surroundings"]
    assert "the same losses" in output and "trl (tuned)" in output


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_system_trained_the_same_on_pairs(tmp_path):
    """Of the shipped rows, on the shipped base; in bfloat16 the verdict is the same as the losses'."""
    base = "model_name_or_path=luthier:quickstart/base"
    _, content = run(
        tmp_path, "objective=dpo", "learning_rate=5e-5", "dtype=float32", base, "--steps", "3", "--warm-up", "1"
    )
    assert content["setting"]["objective"] == "dpo"
    assert base in content["setting"]["command"] and "luthier-bench" not in str(content["setting"]["command"])
    reference = content["rows"][0]["losses"]
    assert reference[0] == pytest.approx(0.6931, abs=1e-3) and reference[2] != reference[0]
    for row in content["rows"]:
        assert row["losses"] == pytest.approx(reference, abs=1e-3), row["lane"]


def test_pairs_are_what_trl_reads():
    rows = [
        TokenRow(np.array([0, 5, 6, *answer, 1]), np.array([False] * 3 + [True] * (len(answer) + 1)), f"rows:{n}")
        for n, answer in enumerate(([7, 8], [9], [7], [8, 8, 8]))
    ]
    assert pairs_of(rows) == [
        {"prompt_ids": [0, 5, 6], "chosen_ids": [7, 8, 1], "rejected_ids": [9, 1]},
        {"prompt_ids": [0, 5, 6], "chosen_ids": [7, 1], "rejected_ids": [8, 8, 8, 1]},
    ]


def row(system, lane, rate, difference=0.0):
    return Row(
        system=system, lane=lane, tokens_per_second=rate, trained_tokens_per_second=rate / 2, wall_seconds=10.0,
        peak_memory_gib=1.5, share_of_limit=0.5, losses=[2.0, 1.5], largest_loss_difference=difference,
        all_tokens_per_second=[rate * 0.9, rate], all_wall_seconds=[10.0, 11.0],
    )  # fmt: skip


SETTING = {
    "surroundings": {"device": "a CPU", "threads": 2}, "dtype": "float32", "objective": "sft", "limit_flops": 1.5e11,
    "steps": 2, "tokens_per_step": 2000, "trained_tokens_per_step": 1200, "repeats": 2,
    "losses_compared_with": "luthier (defaults)",
}  # fmt: skip


def test_speed_that_changes_the_result_does_not_count(monkeypatch, capsys):
    differs = Comparison(SETTING, (row("luthier", "defaults", 3000.0), row("trl", "defaults", 1000.0, 0.002)))
    assert not differs.equal
    assert "NOT the same losses" in table(differs)
    monkeypatch.setattr(comparison, "compare", lambda *_: differs)
    monkeypatch.setattr("luthier.bench.setting.make_base", lambda folder: None)
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "cpu", "--steps", "3", "--warm-up", "1"])
    assert stopped.value.code == 3
    assert "NOT the same losses" in capsys.readouterr().out


def test_the_table_tells_how_many_times_slower_each_is():
    lines = table(
        Comparison(SETTING, (row("luthier", "defaults", 3000.0), row("trl", "defaults", 1000.0)))
    ).splitlines()
    assert "150 billion operations a second" in lines[0]
    assert "2,700 - 3,000" in lines[4] and "3.00" in lines[5]
    assert "the same losses" in lines[-1]
    assert as_json(Comparison(SETTING, (row("a", "b", 1.0),)))["rows"][0]["lane"] == "b"


def test_needed_work_counts_each_multiply_add_once():
    facts = {"tokens": [100], "computed_tokens": [80], "trained_tokens": [40], "pairs": [900]}
    adapters = 2 * 3 * (2 * 16)
    each = work(TINY, adapters)
    matrices = sum(rows * columns for rows, columns in shapes(TINY))
    assert shapes(TINY) == [(64, 32), (32, 32), (96, 32), (32, 48)]
    assert each.layers == 2 * 4 * matrices + 6 * adapters
    assert each.head == 4 * 96 * 32
    assert each.attention == 2 * 12 * 32  # layers; q k^T and p v, forward and twice backward; heads times their size
    facts["work"] = vars(each)
    apart, shared = (needed_work(facts, 0, shared=shared) for shared in (False, True))
    assert apart == each.layers * 100 + each.head * 40 + each.attention * 900
    assert apart - shared == each.layers * 20


def test_the_limit_is_a_rate_of_this_machine():
    assert 1e7 < matmul_limit(TINY, torch.float32, 64) < 1e14


def test_a_system_that_fails_is_named(tmp_path):
    (tmp_path / "request.json").write_text("no JSON")
    with pytest.raises(RunError) as caught:
        comparison.run_arm("trl", tmp_path)
    (problem,) = caught.value.problems
    assert problem.code == "E-RUN-006" and problem.found.startswith("trl (defaults): json.decoder.JSONDecodeError: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["cpu", "--steps", "3", "--warm-up", "3"],
        ["cpu", "--steps", "1"],
        ["cpu", "--repeats", "0"],
        ["gpu"],
        ["cpu", "x"],
        ["cpu", "dtype=float16"],
    ],
)
def test_bad_requests(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *arguments])
    assert stopped.value.code == 2


def test_a_peer_that_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "cpu"])
    assert stopped.value.code == 2
    assert "E-ENV-006" in capsys.readouterr().err


FAKE_ARM = """#!{python}
import json, os, pathlib, sys
folder, name = pathlib.Path(sys.argv[3]), sys.argv[4]
seen = os.environ.get("CUDA_VISIBLE_DEVICES")
(folder / "seen.txt").open("a").write(f"{{name}} {{seen!r}}\\n")
facts = {{"tokens": [9, 9], "trained_tokens": [5, 5], "computed_tokens": [9, 9], "pairs": [1, 1], "plan": {{}},
         "work": {{"layers": 1, "head": 1, "attention": 1}}, "dtype": "float32", "limit_flops": 1.0,
         "surroundings": {{}}, "computed_on": "{device}", "training": {{"objective": "sft"}}}}
result = {{"seconds": [1.0, 1.0], "losses": [2.0, 1.0], "peak_memory_gib": 1.0}}
(folder / f"{{name}}.json").write_text(json.dumps(facts if name == "prepare" else result))
"""


@pytest.fixture
def fake_arms(tmp_path, monkeypatch):
    """Arms that measure nothing and note what they see, on a machine with a GPU; returns how to run a comparison."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    def compared(arms, device="cpu"):
        script = tmp_path / "arm"
        script.write_text(FAKE_ARM.format(python=sys.executable, device=device))
        script.chmod(0o755)
        monkeypatch.setattr(comparison, "run_arm", partial(comparison.run_arm, python=str(script)))
        request = comparison.Request((), "base", arms, 1, 1)
        return comparison.compare(request, tmp_path, lambda text: None)

    return compared


def test_alone_needs_no_peer_and_no_gpu_is_seen(fake_arms, tmp_path, monkeypatch):
    def installed(name):
        if name == "trl":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(comparison, "version", installed)
    alone = fake_arms(("luthier", "luthier-peft"))
    assert len(alone.rows) == 2 and set(alone.setting["peers"]) == {"peft", "bitsandbytes"}
    seen = (tmp_path / "seen.txt").read_text().splitlines()
    assert seen == ["prepare ''", "luthier ''", "luthier-peft ''"]


def test_e_run_006_a_device_that_cannot_be_hidden(fake_arms):
    with pytest.raises(RunError, match=r"E-RUN-006.*mps cannot be hidden"):
        fake_arms(("luthier",), "mps")


def test_the_tokenizer_has_the_ids_that_the_model_names(tmp_path):
    from transformers import AutoTokenizer

    texts = [text for text, _ in zip(functions(), range(60), strict=False)]
    make_tokenizer(texts, 600, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert tokenizer("x")["input_ids"][0] == 0
    assert tokenizer.decode(tokenizer(texts[0])["input_ids"], skip_special_tokens=True) == texts[0]


@pytest.mark.parametrize(
    ("name", "format_", "apart"), [("bench_cpu_bf16", "bfloat16", 5e-3), ("bench_cpu", "float32", 1e-5)]
)
def test_the_readme_tells_what_was_measured(name, format_, apart):
    content = json.loads(Path(f"benchmarks/results/{name}.json").read_text("utf-8"))
    rows = {(row["system"], row["lane"]): row for row in content["rows"]}
    ours, theirs, tuned = (rows[key] for key in (("luthier", "defaults"), ("trl", "defaults"), ("trl", "tuned")))
    text = " ".join(Path("README.md").read_text("utf-8").split())
    rates = [f"{row['tokens_per_second']:,.0f}" for row in (ours, theirs, tuned)]
    times = [f"{ours['tokens_per_second'] / row['tokens_per_second']:.1f}" for row in (theirs, tuned)]
    told = {
        "bfloat16": f"in bfloat16: {rates[0]} tokens/s where TRL 1.16 runs at {rates[1]} with its defaults and at "
        f"{rates[2]} tuned: {times[0]} and {times[1]} times, in half the memory",
        "float32": f"In float32 {rates[0]}, {rates[1]} and {rates[2]}: {times[0]} and {times[1]} times",
    }
    assert told[format_] in text and content["setting"]["dtype"] == format_
    assert ours["peak_memory_gib"] < 0.55 * min(theirs["peak_memory_gib"], tuned["peak_memory_gib"])
    assert max(row["largest_loss_difference"] for row in content["rows"]) < apart
    assert content["setting"]["peers"]["trl"].startswith("1.16")


def test_the_readme_tells_what_rounding_leaves():
    content = json.loads(Path("benchmarks/results/rounding.json").read_text("utf-8"))
    text = " ".join(Path("README.md").read_text("utf-8").split())
    whole, _, peft = content["loss_drops"]["trained"].values()
    left = {rate: 100 * peft[i] / whole[i] for i, rate in enumerate(content["learning_rates"])}
    assert (
        f"{left[2e-4]:.0f} % of the loss's fall is left after one update at 2e-4, and {left[5e-5]:.0f} % at 5e-5"
        in text
    )
    for whole, lean, _ in (ways.values() for ways in content["loss_drops"].values()):
        assert all(abs(a / b - 1) < 0.02 for a, b in zip(lean, whole, strict=True))
