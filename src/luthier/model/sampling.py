"""What the model writes: one continuation of one prompt, by transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from luthier.model import attention
from luthier.model.forward import inference, unwrap


def continue_ids(
    model: nn.Module,
    prompt_ids: Sequence[int],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    **options: Any,
) -> list[int]:
    """Token ids that follow the prompt, the stop token left out.

    Args:
        model: A causal language model, with or without an adapter.
        prompt_ids: Ids of the prompt, BOS included.
        stop_ids: Any of these ends the answer.
        max_new_tokens: Longest answer.
        temperature: 0 takes the most likely token each time; above that, samples.
        **options: Passed on to `generate` (top_p, repetition_penalty, ...).
    """
    causal_lm = unwrap(model)
    device = next(causal_lm.parameters()).device
    before = causal_lm.config._attn_implementation
    ids_1T = torch.tensor([list(prompt_ids)], device=device)
    if before == attention.NAME:  # made for packed training, not for a cache that grows
        causal_lm.set_attn_implementation("sdpa")
    try:
        with inference(model):
            output_1T = causal_lm.generate(
                input_ids=ids_1T,
                attention_mask=torch.ones_like(ids_1T),
                max_new_tokens=max_new_tokens,
                do_sample=temperature > 0,
                eos_token_id=list(stop_ids),
                pad_token_id=stop_ids[0],
                use_cache=True,
                **(
                    {"temperature": temperature}
                    if temperature > 0
                    else {"temperature": None, "top_p": None, "top_k": None}
                ),
                **options,
            )
    finally:
        causal_lm.set_attn_implementation(before)
    answer: list[int] = output_1T[0, len(prompt_ids) :].tolist()
    ends = [i for i, token in enumerate(answer) if token in set(stop_ids)]
    return answer[: ends[0]] if ends else answer
