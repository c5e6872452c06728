"""What goes into a report of a bug: what is needed, and nothing that names anybody."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path

import pytest
import torch  # noqa: F401  a CUDA build reads PYTORCH_CUDA_ALLOC_CONF as it loads, and aborts on nonsense

from luthier.machine import environment as of
from luthier.version import __version__
from tests.cli.support import run_here

TORCH = metadata.version("torch")  # without the name of a build, which some have in torch.__version__


@pytest.fixture
def private(monkeypatch):
    """An environment with things that are nobody else's business."""
    monkeypatch.setenv("HF_TOKEN", "hf_" + "abcdEFGH" * 4)
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "/home/alice/secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return ("hf_abcd", "alice", "secret", platform.node(), str(Path.cwd()))


def test_it_tells_what_there_is_and_names_nobody(capsys, private):
    result = run_here(capsys, "env")
    assert (result.code, result.err) == (0, "")
    for word in (__version__, TORCH, platform.python_version(), "number formats", "float32", "GiB free"):
        assert word in result.out
    assert not [word for word in private if word in result.out]
    assert max(map(len, result.out.splitlines())) <= 100
    told = json.loads(run_here(capsys, "env", "--json").out)
    assert told["versions"]["torch"] == TORCH
    assert told["variables"]["OMP_NUM_THREADS"] == "3"
    assert told["variables"]["PYTORCH_CUDA_ALLOC_CONF"] == "(set)"
    assert "HF_TOKEN" not in told["variables"]
    assert not [word for word in private if word in json.dumps(told)]


def test_a_torch_that_does_not_load_is_told_without_its_place(capsys, monkeypatch):
    def broken():
        raise OSError("/home/alice/.venv/lib/libc10.so: cannot open ~/x/y: no such file")

    monkeypatch.setattr("luthier.machine.probe.probe", broken)
    told = of.environment()
    assert told["torch"] == {"trouble": "it does not load: libc10.so: cannot open y: no such file"}
    assert run_here(capsys, "env").code == 0


def test_what_is_not_installed_is_said(capsys, monkeypatch):
    monkeypatch.setattr(of, "OPTIONAL", ("torch", "luthier-nothing"))
    told = of.environment()["optional"]
    assert told == {"torch": TORCH, "luthier-nothing": "not installed"}
    assert "luthier-nothing" not in run_here(capsys, "env").out
