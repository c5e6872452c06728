"""How fast this machine multiplies the matrices of a model: the limit that training is measured against.

The products are those of a step without adapters: every stacked linear layer forward and towards its input, and the
head. Each is timed on its own, again and again, and its best time counts; the limit is all their work over all their
time. On CUDA a time is that of many products one after the other, between two events of the device: what it takes to
launch one and to hear that it is done is no multiplying. Not covered there: so few rows that a product is done before
the next one is launched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

_REPEATS, _PRODUCTS = 12, 50
HEAD_ROWS = 256


@dataclass(frozen=True)
class Work:
    """Multiply-adds of a model, times two, forward and backward."""

    layers: int
    """A token, in all layers: frozen matrices twice (forward, and towards the input), adapters three times."""
    head: int
    """A trained token, in the head."""
    attention: int
    """A token of a document, times the mean number of tokens it looks at."""


def work(config: PretrainedConfig, trained: int) -> Work:
    """Operations of one token; nothing for weights' gradients, which frozen weights do not have.

    Args:
        config: config.json of a model of Llama's shape.
        trained: Parameters of the adapters.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    per_layer = sum(rows * columns for rows, columns in shapes(config))
    attention = 2 * 2 * config.num_attention_heads * size * 3  # two products forward, four backward
    return Work(4 * per_layer * layers + 6 * trained, 4 * config.vocab_size * hidden, attention * layers)


def shapes(config: PretrainedConfig) -> list[tuple[int, int]]:
    """(outputs, inputs) of a layer's stacked matrices."""
    hidden, inner = config.hidden_size, config.intermediate_size
    size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    return [((heads + 2 * key_heads) * size, hidden), (hidden, heads * size), (2 * inner, hidden), (hidden, inner)]


def matmul_limit(config: PretrainedConfig, dtype: torch.dtype, tokens: int, device: str = "cpu") -> float:
    """Floating point operations a second of the model's products at `tokens` rows, on `device`."""
    total_seconds = total_work = 0.0
    sized = [(tokens, rows, columns, config.num_hidden_layers) for rows, columns in shapes(config)]
    for count, rows, columns, times in [*sized, (HEAD_ROWS, config.vocab_size, config.hidden_size, 1)]:
        sizes = ((count, columns), (count, rows), (rows, columns))
        x, y, weight = (torch.randn(size, device=device).to(dtype) for size in sizes)
        # the head's share of a step: as many of its rows as tokens
        scale = times if count == tokens else tokens / HEAD_ROWS
        for product in (lambda x=x, w=weight: x @ w.T, lambda y=y, w=weight: y @ w):
            total_seconds += scale * _best(product, device)
            total_work += scale * 2 * count * rows * columns
    return total_work / total_seconds


def _best(product: Callable[[], object], device: str) -> float:
    """Seconds of one product."""
    product()
    seconds = _on_cuda if device == "cuda" else _on_the_clock
    return min(seconds(product) for _ in range(_REPEATS))


def _on_the_clock(product: Callable[[], object]) -> float:
    started = time.perf_counter()
    product()
    return time.perf_counter() - started


def _on_cuda(product: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(_PRODUCTS):
        product()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000 / _PRODUCTS
