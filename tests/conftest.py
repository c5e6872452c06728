"""Shared fixtures: a tiny Llama and its tokenizer, made here; nothing is downloaded and no network is used."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

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


LONGEST = tuple(
    f"{name}.py"
    for name in (
        "torture/test_torture",
        "bench/test_bench",
        "model/test_memory",
        "training/test_no_pickle",
        "training/test_ranks",
        "training/test_resume",
        "training/test_survival",
        "verify/test_resume",
        "sweep/test_study",
    )
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin, so that in the end no worker is left alone with one of them."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))


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
