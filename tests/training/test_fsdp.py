"""A model that is sharded over ranks by FSDP2: the numbers of one process, and no rank that holds all of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import build_model, write_rows
from tests.torture.runs import losses, weights
from tests.training.test_ranks import DIED, curve, of_ranks, said, start, told

pytestmark = pytest.mark.slow


def of_kind(kind: str, n: int, folder, model, rows, **changes) -> dict:
    values = of_ranks(n, folder, model, rows, fsdp=n > 1, max_steps=6, **changes)
    values["training"]["lean_path"] = "auto" if n > 1 else False
    values["quantization"] = {"load_in_4bit": kind == "nf4"}
    values["lora"]["r"] = 3  # so that ranks hold unequal parts
    if kind == "nf4":
        values["data"]["val_set_size"] = 1  # a rank has nothing to evaluate
    if kind == "full":
        del values["lora"]
        values["training"] |= {"finetuning_type": "full", "gradient_checkpointing": n > 1}
    return values


def assert_same_weights(run, other, kind: str) -> None:
    """Of the final models, up to the rounding of float32."""
    name = f"final_model/{'model' if kind == 'full' else 'adapter_model'}.safetensors"
    found, wanted = load_file(run / name), load_file(other / name)
    assert wanted.keys() == found.keys()
    assert all(torch.allclose(found[key], wanted[key], atol=2e-5) for key in wanted)


@pytest.mark.parametrize("kind", ["lora", pytest.param("nf4", marks=pytest.mark.long), "full"])
def test_sharded_over_ranks_it_trains_what_one_process_trains(tmp_path, tiny_model_dir, alpaca_file, kind):
    folders = []
    for n in (1, 2):
        folders.append(tmp_path / str(n))
        assert start(n, of_kind(kind, n, folders[-1], tiny_model_dir, alpaca_file)) == [0] * n
    one, two = folders
    assert len(curve(one)) == 6
    assert curve(two) == pytest.approx(curve(one), rel=1e-5)
    assert told(two, "log", "grad_norm") == pytest.approx(told(one, "log", "grad_norm"), rel=2e-4)
    assert told(two, "evaluated", "eval_loss") == pytest.approx(told(one, "evaluated", "eval_loss"), rel=1e-5)
    assert_same_weights(two, one, kind)
    assert not any(told(two, "timing", "own_seconds")), "each rank waits for the others inside of its passes"
    assert all(len(gib) == 2 for gib in told(two, "timing", "own_memory_gib"))
    names = sorted(path.name for path in (one / "final_model").iterdir())
    assert sorted(path.name for path in (two / "final_model").iterdir()) == names
    for name in names:
        if name.endswith(".json") and name != "manifest.json":
            assert (two / "final_model" / name).read_text() == (one / "final_model" / name).read_text()


@pytest.mark.long
def test_a_rank_is_killed_and_the_resume_is_exact(tmp_path, tiny_model_dir, alpaca_file):
    """With dropout, checkpointed layers, samples and histograms."""

    def values(name):
        made = of_kind("lora", 2, tmp_path / name, tiny_model_dir, alpaca_file, gradient_checkpointing=True)
        made["lora"]["lora_dropout"] = 0.1
        made["evaluation"] |= {"sample_prompts": ["add two"], "sample_steps": [3], "sample_max_new_tokens": 3}
        made["logging"]["histogram_steps"] = 2
        return made

    assert start(2, values("straight")) == [0, 0]
    assert start(2, values("run"), fault="kill", at=5) == [DIED, -signal.SIGKILL]
    assert "E-ENV-007" in said(tmp_path / "run", 0)
    assert start(2, values("run"), resume="auto") == [0, 0]
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")
    assert len(told(tmp_path / "straight", "sampled", "text")) == 2
    assert len(told(tmp_path / "straight", "gradients", "norms")) == 3


@pytest.mark.long
def test_memory_that_runs_out_on_one_rank_in_mid_pass_ends_both(tmp_path, tiny_model_dir, alpaca_file):
    assert start(2, of_kind("lora", 2, tmp_path, tiny_model_dir, alpaca_file), fault="memory") == [DIED, DIED]
    assert "E-RUN-002" in said(tmp_path, 1) and "E-ENV-007" in said(tmp_path, 0)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, tiny_model_dir, alpaca_file, kind):
    straight, run = tmp_path / "straight", tmp_path / "run"
    assert start(2, of_kind(kind, 2, straight, tiny_model_dir, alpaca_file)) == [0, 0]
    values = [of_kind(kind, n, run, tiny_model_dir, alpaca_file) for n in (1, 2)]
    assert start(2, values[1], fault="stop", at=2) == [75, 75]
    assert start(1, values[0], fault="stop", at=4, of=0, resume="auto") == [75]
    assert start(2, values[1], resume="auto") == [0, 0]
    assert curve(run) == pytest.approx(curve(straight), rel=1e-5)
    assert_same_weights(run, straight, kind)


@pytest.mark.long
def test_a_model_larger_than_a_ranks_allowance_trains_within_it(tmp_path):
    """42 million weights in full are 640 MiB with gradients and moments; the system allows each process 600."""
    build_model(tmp_path / "model", hidden_size=512, intermediate_size=2048, num_hidden_layers=10)
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows" / "rows.jsonl", 24)

    def trained(n: int) -> tuple[int, str]:
        values = of_kind("full", n, tmp_path / str(n), tmp_path / "model", tmp_path / "rows" / "rows.jsonl")
        values["training"] |= {"max_steps": 2, "warmup_steps": 0}
        values["checkpointing"] = {"save_steps": 0}
        (tmp_path / "config.json").write_text(json.dumps(values))
        command = [sys.executable, "-m", "luthier.machine.torchrun", "--standalone", "--nproc-per-node", str(n)]
        command += ["-m", "tests.training.allowed", str(tmp_path / "config.json"), "600"]
        ran = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        return ran.returncode, ran.stderr

    code, text = trained(1)
    assert code == 1 and "E-RUN-002" in text
    code, text = trained(2)
    assert code == 0, text
    assert len(curve(tmp_path / "2")) == 2
    (predicted,), (measured,) = (
        told(tmp_path / "2", *which) for which in (("memory_forecast", "gib"), ("run_finished", "peak_memory_gib"))
    )
    assert predicted == pytest.approx(measured, rel=0.1)


def test_e_model_016_a_tensor_that_is_in_no_file(tmp_path, tiny_model_dir, alpaca_file):
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.other"] = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert start(2, of_kind("lora", 2, tmp_path / "run", model, alpaca_file)) == [DIED, DIED]
    assert "E-MODEL-016" in said(tmp_path / "run", 0)
    assert "model.layers.1.mlp.up_proj.weight is in no file" in said(tmp_path / "run", 0)
