"""Shared fixtures: a tiny Llama and its tokenizer, made here; nothing is downloaded and no network is used."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.tiny import build_model, build_tokenizer, write_rows


def pytest_configure(config: pytest.Config) -> None:
    """The tests are about the CPU, also on a machine with a GPU, unless `-m gpu` asks for it.

    There kernels run in Triton's interpreter, which has to be chosen before anything imports triton.
    """
    if config.option.markexpr != "gpu":  # the default is `not gpu and not long`
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["TRITON_INTERPRET"] = "1"


LONGEST = {
    f"{name}.py": place
    for place, name in enumerate(
        (
            "torture/test_torture",
            "training/test_ranks",
            "bench/test_bench",
            "monitor/test_dashboard",
            "training/test_resume",
            "sweep/test_study",
            "training/test_survival",
            "model/test_memory",
            "export/test_merge",
            "evaluate/test_runs",
            "training/test_lean_run",
            "verify/test_resume",
            "model/kernels/test_choose",
        )
    )
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin, so that in the end no worker is left alone with one of them."""
    tests = Path(__file__).parent
    items.sort(key=lambda item: LONGEST.get(item.path.relative_to(tests).as_posix(), len(LONGEST)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What tests import is no garbage: Python's collector looks through none of it, neither now nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer with BOS, EOS and a pad of its own; no chat template."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama (hidden 64, 4 heads, 2 key/value heads) in float32, with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    build_model(folder)
    return folder


@pytest.fixture(scope="session")
def alpaca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 alpaca rows of different lengths."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_rows(path, 64)
    return path
