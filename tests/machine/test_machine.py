"""Facts about this box, its random numbers, and the silence of the libraries."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import warnings

import numpy as np
import psutil
import pytest
import torch
import transformers

from luthier.config.plan import MachineFacts
from luthier.errors import MissingError
from luthier.machine.libraries import LIBRARIES, library_output_to
from luthier.machine.probe import best_device, peak_memory_gib, probe
from luthier.machine.ranks import rank, sum_over_ranks, world_size
from luthier.machine.record import surroundings
from luthier.machine.seed import rng_state, seed_everything, set_rng_state


def test_the_probe_sees_this_box():
    facts = probe()
    assert isinstance(facts, MachineFacts)
    assert facts.device == best_device()
    assert facts.device_name.strip()
    assert 0 < facts.free_memory_gib <= facts.memory_gib
    assert 1 <= facts.cpu_cores <= (os.cpu_count() or 1)
    assert facts.world_size == 1 and facts.has_bitsandbytes
    if facts.device == "cpu":
        assert facts.memory_gib == pytest.approx(psutil.virtual_memory().total / 2**30)


def test_peak_memory_grows_with_what_is_held_and_never_falls():
    cpu = torch.device("cpu")
    before = peak_memory_gib(cpu)
    resident = psutil.Process().memory_info().rss / 2**30
    assert resident * 0.5 < before < 64
    held = torch.ones(2**26)  # 256 MiB
    peak = peak_memory_gib(cpu)
    assert peak >= resident + 0.2
    del held
    assert peak_memory_gib(cpu) >= peak


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_fixes_every_generator():
    seed_everything(7)
    first = draws()
    assert draws() != first
    seed_everything(7)
    assert draws() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
    seed_everything(2**40)  # beyond what NumPy takes


def test_the_state_of_the_generators_comes_back():
    seed_everything(3)
    torch.rand(5)
    state = {name: tensor.clone() for name, tensor in rng_state().items()}
    assert all(tensor.dtype == torch.uint8 for tensor in state.values())
    expected = torch.rand(4)
    assert not torch.equal(torch.rand(4), expected)
    set_rng_state(state)
    assert torch.equal(torch.rand(4), expected)


def test_the_generator_of_a_mac_is_among_them(monkeypatch):
    """No Mac is here: a generator of torch stands for that of its GPU."""
    gpu = torch.Generator().manual_seed(5)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", gpu.get_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", gpu.set_state)
    state = rng_state()
    expected = torch.rand(4, generator=gpu)
    set_rng_state(state)
    assert torch.equal(torch.rand(4, generator=gpu), expected)


def test_alone_we_are_rank_0_of_1(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (rank(), world_size()) == (0, 1)
    assert sum_over_ranks(1.5, 2) == (1.5, 2)


def test_torchrun_says_who_we_are(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (rank(), world_size()) == (3, 8)
    assert probe().world_size == 8


def test_the_record_names_versions_and_commit(monkeypatch, tmp_path):
    record = surroundings()
    assert record["torch"] == torch.__version__.partition("+")[0] or record["torch"] == torch.__version__
    assert record["transformers"] == transformers.__version__
    assert record["luthier"] and record["python"] and record["threads"] >= 1
    monkeypatch.chdir(tmp_path)
    assert surroundings()["git_commit"] == "", "outside a repository there is none"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q", "."], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert commit.startswith(surroundings()["git_commit"]) and surroundings()["git_commit"]


def test_the_record_holds_nothing_else_of_the_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")
    assert "hf_secret_value" not in str(surroundings())


@pytest.mark.filterwarnings("default::UserWarning")
def test_what_libraries_say_goes_to_the_file_and_everything_is_put_back(tmp_path, capsys):
    file = tmp_path / "library.log"
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(list(logger.handlers), logger.propagate) for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    with library_output_to(file):
        logging.getLogger("transformers.modeling_utils").warning("weights were talked about")
        warnings.warn("a library is worried", UserWarning, stacklevel=1)
        assert not transformers.utils.logging.is_progress_bar_enabled()
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    text = file.read_text()
    assert "WARNING transformers.modeling_utils: weights were talked about" in text
    assert "a library is worried" in text
    assert [(list(logger.handlers), logger.propagate) for logger in loggers] == before
    assert transformers.utils.logging.is_progress_bar_enabled() == bars
    with pytest.warns(UserWarning, match="heard again"):
        warnings.warn("heard again", UserWarning, stacklevel=1)


def test_everything_is_put_back_after_an_error_too(tmp_path):
    logger = logging.getLogger("transformers")
    before = (list(logger.handlers), logger.propagate)
    with pytest.raises(ZeroDivisionError), library_output_to(tmp_path / "library.log"):
        _ = 1 / 0
    assert (list(logger.handlers), logger.propagate) == before
    assert not (tmp_path / "library.log").exists(), "no file when there is nothing to say"


def test_e_env_004_a_rank_that_is_no_number(monkeypatch):
    monkeypatch.setenv("RANK", "")
    assert rank() == 0
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(MissingError, match="E-ENV-004"):
        rank()
