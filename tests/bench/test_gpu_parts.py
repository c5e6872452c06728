"""What benchmarks/gpu_parts.py makes of a profiler's events, and its float64 attention; the rest needs a GPU."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("gpu_parts")


def kernel(name, start, microseconds):
    return {"cat": "kernel", "name": name, "ts": start, "dur": microseconds}


def test_a_step_lasts_from_update_to_update_and_an_odd_one_does_not_count(parts):
    events, clock = [{"cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 1e9}, kernel("_adamw", 0, 100)], 100
    for wait in (1000, 1000, 90_000):  # the last one is launched
        clock += wait
        events += [kernel("nvjet_sm90_tst_128x256", clock, 3000), kernel("_backward_keys", clock + 3000, 300)]
        events += [kernel("_attend", clock + 3300, 200)]
        events += [kernel("_backward", clock + 3500, 400), kernel("_adamw", clock + 3900, 100)]
        clock += 4000
    found = parts.by_kind(events[::-1])
    assert (found["steps"], found["kernels"], found["milliseconds"]) == (3, 5, pytest.approx(5.0))
    assert (found["busy"], found["waiting"]) == (pytest.approx(4.0), pytest.approx(1.0))
    kinds = found["kinds"]
    assert kinds["products"] == pytest.approx(3.0) and kinds["attention"] == pytest.approx(0.5)
    assert kinds["norms and SwiGLU"] == pytest.approx(0.4) and kinds["others"] == 0.0


def test_the_exact_attention_is_that_of_torch(parts):
    heads = [torch.randn(11, count, 16, requires_grad=True) for count in (4, 2, 2)]
    grad = torch.randn(11, 4, 16)
    found = parts.exact(heads, grad, (0, 4, 11), 0.25)
    outputs = []
    for start, end in ((0, 4), (4, 11)):
        q, k, v = (x[start:end].transpose(0, 1)[None] for x in heads)
        whole = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.25, enable_gqa=True)
        outputs.append(whole[0].transpose(0, 1))
    output = torch.cat(outputs)
    wanted = [output.detach(), *torch.autograd.grad(output, heads, grad)]
    assert parts.distance([x.float() for x in found], [x.double() for x in wanted]) < 1e-5


def test_documents_are_as_long_as_those_of_the_headline_job(parts):
    usual = parts.documents()["16 usual"]
    assert 180 < sum(usual) / len(usual) < 260


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_gpu_it_says_so(parts, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_parts.py", "--only", "products"])
    with pytest.raises(SystemExit) as stopped:
        parts.main()
    assert stopped.value.code == 2 and "there is no CUDA device" in capsys.readouterr().err
