"""The kernels become machine code of real cards, on a machine that has none."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
@pytest.mark.parametrize(
    ("cards", "names", "kernels"),
    [
        (["T4", "H200"], {"T4 fp16", "T4 fp32", "H200 bf16"}, 3 * 10 + 3 + 1),
        pytest.param(["A100", "L40S"], {"A100 bf16", "L40S bf16"}, 2 * (10 + 3) + 1, marks=pytest.mark.long),
    ],
)
def test_every_kernel_compiles_for_every_card(tmp_path, cards, names, kernels):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.model.kernels.compiled", *cards],
        capture_output=True,
        text=True,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == kernels, "attention where there is flash, and 8-bit floats where there are any"
    assert {name.partition(", ")[2] for name in found} == names
    assert all(kernel["bytes"] > 1000 for kernel in found.values())
    # bitsandbytes rounds the constants twice, so this one must too
    assert not any(kernel["fused"] for name, kernel in found.items() if name.startswith("nf4"))
    assert all(kernel["fused"] for name, kernel in found.items() if name.startswith("norm, "))
