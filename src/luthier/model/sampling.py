"""What the model writes after a prompt, by transformers' own `generate`: one prompt, or many at once.

Prompts of a batch are padded on the left, so that all of them end where writing begins; the padding is masked, and
transformers counts each row's positions from its first real token:

    ids        . . a b c        mask  0 0 1 1 1        positions  - - 0 1 2
               d e f g h              1 1 1 1 1                   0 1 2 3 4

Greedy answers of a batch are those of one prompt at a time as long as rounding does not decide between two tokens: in
float32 practically always, in 16 bits a near-tie can fall the other way (in `generate` with any batch size, here and
elsewhere). Sampled answers depend on the seed and on which prompts share a batch.

Not covered: beam search, several answers from one prompt in one call (repeat the prompt).

Shape letters: B prompts of a batch, T tokens of the longest prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import StoppingCriteria, StoppingCriteriaList

from luthier.errors import ModelError, Problem
from luthier.model import attention
from luthier.model.forward import inference, unwrap

Ended = Callable[[list[int]], bool]
"""Told the ids of an answer so far; True ends it, with these ids."""
MAX_BATCH = 32
"""Prompts at once. More helps little where one token is limited by arithmetic, and finished answers wait for others."""
MAX_BATCH_TOKENS = 16_384
"""Prompt and answer tokens at once: 0.5 GiB of cache for a 1B Llama in 16 bits, 2 GiB for an 8B one."""


def continue_ids(
    model: nn.Module,
    prompt_ids: Sequence[int],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    **options: Any,
) -> list[int]:
    """Token ids that follow one prompt, the stop token left out.

    Args:
        model: A causal language model, with or without an adapter.
        prompt_ids: Ids of the prompt, BOS included.
        stop_ids: Any of these ends the answer.
        max_new_tokens: Longest answer.
        temperature: 0 takes the most likely token each time; above that, samples.
        **options: Passed on to `generate` (streamer, top_p, repetition_penalty, ...).

    Raises:
        ModelError: E-EVAL-020 when the prompt leaves no room in the model's context.
    """
    room = rooms(model, [prompt_ids], max_new_tokens)[0]
    return continue_batch(model, [prompt_ids], stop_ids, room, temperature, **options)[0]


def continue_many(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    ended: Ended | None = None,
    **options: Any,
) -> list[list[int]]:
    """Token ids that follow each prompt, in the order of the prompts.

    Args:
        model: A causal language model, with or without an adapter.
        prompts: Ids of each prompt, BOS included.
        stop_ids: Any of these ends an answer.
        max_new_tokens: Longest answer; less where a prompt leaves less room in the model's context.
        temperature: 0 takes the most likely token each time; above that, samples.
        seed: Of the samples; the generator of torch is as before afterwards. None: draws from that generator.
        progress: Told how many prompts are answered, and of how many.
        ended: Asked after each token of an answer whether it ends there.
        **options: Passed on to `generate`.

    Raises:
        ModelError: E-EVAL-020 when a prompt leaves no room in the model's context.
    """
    room = rooms(model, prompts, max_new_tokens)
    answers: list[list[int]] = [[] for _ in prompts]
    done = 0
    if progress:
        progress(0, len(prompts))
    with _seeded(model, seed):
        for batch in _batches([len(prompt) for prompt in prompts], room):
            rows = [prompts[i] for i in batch]
            continued = continue_batch(model, rows, stop_ids, room[batch[0]], temperature, ended, **options)
            for i, ids in zip(batch, continued, strict=True):
                answers[i] = ids
            done += len(batch)
            if progress:
                progress(done, len(prompts))
    return answers


def rooms(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[int]:
    """How many tokens the answer to each prompt may have: `max_new_tokens`, or what the model's context leaves.

    Raises:
        ModelError: E-EVAL-020 when that is less than one; E-MODEL-007 when a token of a prompt has no embedding.
    """
    embeddings = unwrap(model).get_input_embeddings().num_embeddings
    if (largest := max((max(prompt, default=0) for prompt in prompts), default=0)) >= embeddings:
        found = f"a prompt has the token {largest:,}, and the model embeddings up to {embeddings - 1:,}"
        raise ModelError(Problem("E-MODEL-007", found, "leave that special token out of the prompt"))
    context = context_of(model)
    if context is None:
        return [max_new_tokens for _ in prompts]
    longest = max((len(prompt) for prompt in prompts), default=0)
    if longest >= context:
        found = f"a prompt of {longest:,} tokens, and the model reads {context:,}"
        raise ModelError(Problem("E-EVAL-020", found, "shorten the prompt (in a chat: /reset)"))
    return [min(max_new_tokens, context - len(prompt)) for prompt in prompts]


def context_of(model: nn.Module) -> int | None:
    """How many tokens the model reads at once; None: its config names no limit."""
    context: int | None = getattr(unwrap(model).config.get_text_config(), "max_position_embeddings", None)
    return context


def _batches(lengths: Sequence[int], room: Sequence[int]) -> Iterator[list[int]]:
    """Indices of prompts of like length and equal room, the longest first: what does not fit in memory fails early."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batch[0] if batch else i] + room[i]
        full = len(batch) == MAX_BATCH or (len(batch) + 1) * longest > MAX_BATCH_TOKENS
        if batch and (full or room[i] != room[batch[0]]):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def continue_batch(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    ended: Ended | None = None,
    **options: Any,
) -> list[list[int]]:
    """One call of `generate` for all prompts, which have room for `max_new_tokens`; else as `continue_many`."""
    causal_lm = unwrap(model)
    device = next(causal_lm.parameters()).device
    longest = max(len(prompt) for prompt in prompts)
    padding = [longest - len(prompt) for prompt in prompts]
    ids_BT = torch.tensor([[stop_ids[0]] * pad + list(ids) for pad, ids in zip(padding, prompts, strict=True)])
    mask_BT = torch.arange(longest)[None] >= torch.tensor(padding)[:, None]
    if temperature > 0:
        choice: dict[str, Any] = {"do_sample": True, "temperature": temperature}
    else:
        choice = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if ended:
        options["stopping_criteria"] = StoppingCriteriaList([_Ended(ended, longest)])
    with _growing(causal_lm), inference(model):
        output_BT = causal_lm.generate(
            input_ids=ids_BT.to(device),
            attention_mask=mask_BT.long().to(device),
            max_new_tokens=max_new_tokens,
            eos_token_id=list(stop_ids),
            pad_token_id=stop_ids[0],
            use_cache=True,
            **choice,
            **options,
        )
    return [_until_stop(answer, stop_ids) for answer in output_BT[:, longest:].tolist()]


class _Ended(StoppingCriteria):  # type: ignore[misc]
    """`ended` as transformers asks it: of the whole batch at once, prompts included."""

    def __init__(self, ended: Ended, prompt_tokens: int) -> None:
        self._ended, self._prompt_tokens = ended, prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Which rows are done."""
        answers = input_ids[:, self._prompt_tokens :].tolist()
        return torch.tensor([self._ended(answer) for answer in answers], device=input_ids.device)


def _until_stop(answer: list[int], stop_ids: Sequence[int]) -> list[int]:
    ends = [i for i, token in enumerate(answer) if token in stop_ids]
    return answer[: ends[0]] if ends else answer


@contextmanager
def _growing(causal_lm: Any) -> Iterator[None]:
    """An attention that works with a cache that grows; the packed one of the training comes back afterwards."""
    before = causal_lm.config._attn_implementation
    if before == attention.NAME:
        causal_lm.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        causal_lm.set_attn_implementation(before)


@contextmanager
def _seeded(model: nn.Module, seed: int | None) -> Iterator[None]:
    """Draws of torch follow the seed; its generators are as before afterwards."""
    if seed is None:
        yield
        return
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
