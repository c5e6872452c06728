"""Facts of an imaginary box, model and dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.config.load import Loaded, from_dict, load
from luthier.config.plan import DataFacts, MachineFacts, ModelFacts, Passes, Plan
from luthier.config.resolve import resolve
from luthier.errors import ConfigError, Problem

GPU = {
    "device": "cuda", "device_name": "NVIDIA L40S", "world_size": 1, "supports_bfloat16": True, "memory_gib": 44.4,
    "free_memory_gib": 43.9, "cpu_cores": 16, "has_bitsandbytes": True,
    "supports_fp8": True,
}  # fmt: skip
LLAMA = {
    "architecture": "LlamaForCausalLM", "parameters": 1_235_814_400, "trainable_parameters": 11_272_192, "layers": 16,
    "hidden_size": 2048, "vocab_size": 128_256, "max_position_embeddings": 131_072, "can_isolate_documents": True,
}  # fmt: skip
ROWS = {
    "train_rows": 17_682, "eval_rows": 930, "train_tokens": 5_000_000, "trained_tokens": 3_100_000,
    "longest_row_tokens": 1800, "template": "alpaca", "fingerprint": "f00d",
}  # fmt: skip

GIVEN = {
    "model": {"model_name_or_path": "meta-llama/Llama-3.2-1B"},
    "data": {"datasets": ["iamtarun/python_code_instructions_18k_alpaca"]},
}
Write = Callable[[str | bytes], Path]
Resolve = Callable[..., Plan]
Refused = Callable[..., tuple[Problem, ...]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a config file and gives its path."""

    def write_text(text: str | bytes) -> Path:
        path = tmp_path / "c.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_text


@pytest.fixture
def refused(write: Write) -> Refused:
    """Loads a text that must be refused and gives the problems."""

    def load_refused(text: str | bytes, *overrides: str) -> tuple[Problem, ...]:
        with pytest.raises(ConfigError) as caught:
            load(write(text), overrides)
        assert caught.value.exit_code == 2
        return caught.value.problems

    return load_refused


@pytest.fixture
def plan() -> Resolve:
    """Resolves overrides on imaginary facts: plan("lora.r=8", machine={"device": "cpu"}, data=None)."""

    def resolve_config(
        *overrides: str,
        config: dict[str, Any] | None = None,
        machine: dict[str, Any] | None = None,
        model: dict[str, Any] | None = {},  # noqa: B006
        data: dict[str, Any] | None = {},  # noqa: B006
        tokens: int | None = 8192,
    ) -> Plan:
        loaded: Loaded = from_dict(GIVEN if config is None else config, overrides)
        return resolve(
            loaded,
            MachineFacts(**{**GPU, **(machine or {})}),
            None if model is None else ModelFacts(**{**LLAMA, **model}),
            None if data is None else DataFacts(**{**ROWS, **data}),
            passes=None if tokens is None else Passes(tokens),
        )

    return resolve_config


@pytest.fixture
def resolve_passes() -> Callable[..., Plan]:
    """Resolves overrides on a CPU with these passes."""

    def resolve_config(passes: Passes, *overrides: str) -> Plan:
        cpu = MachineFacts(**{**GPU, "device": "cpu", "device_name": "a CPU"})
        loaded = from_dict({}, ["load_in_4bit=true", *overrides])
        return resolve(loaded, cpu, ModelFacts(**LLAMA), DataFacts(**ROWS), passes=passes)

    return resolve_config
