"""What the model writes after prompts, by transformers' own `generate`, and which prompts are written together.

Prompts of a batch are padded on the left, so that all of them end where writing begins; the padding is masked, and
transformers counts each row's positions from its first real token:

    ids        . . a b c        mask  0 0 1 1 1        positions  - - 0 1 2
               d e f g h              1 1 1 1 1                   0 1 2 3 4

The likeliest token is taken each time, and nothing else is done to the logits: what a model's generation_config.json
asks for (penalties, forbidden tokens, samplers) is the wish of its maker, and would stand between two models that are
compared. Whoever draws (`luthier.generate.writing`) hands in a processor that leaves one token possible.

Greedy answers of a batch are those of one prompt at a time as long as rounding does not decide between two tokens: in
float32 practically always, in 16 bits a near-tie can fall the other way (in `generate` with any batch size, here and
elsewhere).

Not covered: beam search, several answers from one prompt in one call (repeat the prompt).

Shape letters: B prompts of a batch, T tokens of the longest prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from luthier.errors import ModelError, Problem
from luthier.model import attention
from luthier.model.forward import inference, unwrap
from luthier.model.writers import writing

MAX_BATCH = 32
"""Prompts at once. More helps little where one token is limited by arithmetic, and finished answers wait for others."""
MAX_BATCH_TOKENS = 16_384
"""Prompt and answer tokens at once: 0.5 GiB of cache for a 1B Llama in 16 bits, 2 GiB for an 8B one."""


def continue_many(
    model: nn.Module, prompts: Sequence[Sequence[int]], stop_ids: Sequence[int], max_new_tokens: int, **options: Any
) -> list[list[int]]:
    """Token ids that follow each prompt, in the order of the prompts, stop tokens left out.

    Args:
        model: A causal language model, with or without an adapter.
        prompts: Ids of each prompt, BOS included.
        stop_ids: Any of these ends an answer.
        max_new_tokens: Longest answer; less where a prompt leaves less room in the model's context.
        **options: Passed on to `generate`.

    Raises:
        ModelError: E-EVAL-020 when a prompt leaves no room in the model's context.
    """
    room = rooms(model, prompts, max_new_tokens)
    answers: list[list[int]] = [[] for _ in prompts]
    for batch in batches(model, [len(prompt) for prompt in prompts], room):
        longest = max(room[i] for i in batch)
        continued = continue_batch(model, [prompts[i] for i in batch], stop_ids, longest, **options)
        for i, ids in zip(batch, continued, strict=True):
            answers[i] = ids[: room[i]]
    return answers


def rooms(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[int]:
    """How many tokens the answer to each prompt may have: `max_new_tokens`, or what the model's context leaves.

    Raises:
        ModelError: E-EVAL-020 when that is less than one; E-MODEL-007 when a token of a prompt has no embedding.
    """
    embeddings = len(unwrap(model).get_input_embeddings().weight)  # peft's layers around it know no other size
    if (largest := max((max(prompt, default=0) for prompt in prompts), default=0)) >= embeddings:
        found = f"a prompt has the token {largest:,}, and the model embeddings up to {embeddings - 1:,}"
        raise ModelError(Problem("E-MODEL-007", found, "leave that special token out of the prompt"))
    context = _context(model)
    if context is None:
        return [max_new_tokens for _ in prompts]
    longest = max((len(prompt) for prompt in prompts), default=0)
    if longest >= context:
        found = f"a prompt of {longest:,} tokens, and the model reads {context:,}"
        raise ModelError(Problem("E-EVAL-020", found, "shorten the prompt (in a chat: /reset)"))
    return [min(max_new_tokens, context - len(prompt)) for prompt in prompts]


def batches(model: nn.Module, lengths: Sequence[int], room: Sequence[int]) -> Iterator[list[int]]:
    """Which prompts to write together: of like length, the longest first, so that what does not fit fails early.

    An answer that has ended is carried along until the last of its batch has, so the model's context and memory must
    hold the longest prompt with the longest answer, once for each.

    Args:
        model: Who writes.
        lengths: Tokens of each prompt.
        room: Most tokens of each answer.

    Yields:
        Indices of prompts.
    """
    context = _context(model)
    batch: list[int] = []
    longest = most_room = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest, most_room = max(longest, lengths[i]), max(most_room, room[i])
        reach = longest + most_room
        too_far = reach > (context or reach) or (len(batch) + 1) * reach > MAX_BATCH_TOKENS
        if batch and (too_far or len(batch) == MAX_BATCH):
            yield batch
            batch, longest, most_room = [], lengths[i], room[i]
        batch.append(i)
    if batch:
        yield batch


def _context(model: nn.Module) -> int | None:
    """How many tokens the model reads at once; None: its config names no limit."""
    context: int | None = getattr(unwrap(model).config.get_text_config(), "max_position_embeddings", None)
    return context


def continue_batch(
    model: nn.Module, prompts: Sequence[Sequence[int]], stop_ids: Sequence[int], max_new_tokens: int, **options: Any
) -> list[list[int]]:
    """One call of `generate` for all prompts, which have room for `max_new_tokens`; else as `continue_many`."""
    causal_lm = unwrap(model)
    device = next(causal_lm.parameters()).device
    longest = max(len(prompt) for prompt in prompts)
    padding = [longest - len(prompt) for prompt in prompts]
    ids_BT = torch.tensor([[stop_ids[0]] * pad + list(ids) for pad, ids in zip(padding, prompts, strict=True)])
    mask_BT = torch.arange(longest)[None] >= torch.tensor(padding)[:, None]
    reach = longest + max_new_tokens
    with _growing(causal_lm), _bare(causal_lm), inference(model), writing(model, len(prompts), reach) as carried:
        output_BT = causal_lm.generate(
            input_ids=ids_BT.to(device),
            attention_mask=mask_BT.long().to(device),
            max_new_tokens=max_new_tokens,
            eos_token_id=list(stop_ids),
            pad_token_id=stop_ids[0],
            do_sample=False,
            use_cache=True,
            **carried,
            **options,
        )
    return [_until_stop(answer, stop_ids) for answer in output_BT[:, longest:].tolist()]


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
def _bare(causal_lm: Any) -> Iterator[None]:
    """No wishes of the model's own generation config: `generate` takes from it whatever it is not told."""
    before = causal_lm.generation_config
    causal_lm.generation_config = GenerationConfig()
    try:
        yield
    finally:
        causal_lm.generation_config = before
