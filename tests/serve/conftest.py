"""A real server over runs of the tiny model, and OpenAI's own client.

Luthier is imported where it is used: pytest loads this file before `tests/conftest.py` has chosen Triton's interpreter.
"""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def runs(tmp_path_factory, tiny_model_dir, alpaca_file):
    """Two adapters on one base, and a model that was trained in full."""
    from tests.generate.support import train_tiny

    folder = tmp_path_factory.mktemp("serve")
    kinds = {"first": {}, "second": {"lora": {"r": 4}}, "full": {"training": {"finetuning_type": "full"}}}
    for name, sections in kinds.items():
        train_tiny(folder / name, tiny_model_dir, alpaca_file, sections)
    return {name: str(folder / name) for name in kinds}


@pytest.fixture(scope="session")
def models(runs):
    from luthier.serve.models import load_models

    return load_models(runs)


@pytest.fixture(scope="session")
def base(models):
    """The name of the base."""
    return next(name for name, model in models.items() if model.is_base)


@pytest.fixture(scope="module")
def server(models):
    from tests.serve.support import running

    with running(models) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with server.client() as client:
        yield client
