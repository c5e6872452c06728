"""What the model writes after prompts: the likeliest token each time.

Nothing else is done to the logits: what a model's generation_config.json asks for (penalties, forbidden tokens,
samplers) is the wish of its maker, and would stand between two models that are compared.

Answers of a batch are those of one prompt at a time as long as rounding does not decide between two tokens: in float32
practically always, in 16 bits a near-tie can fall the other way (in `generate` with any batch size, here and
elsewhere).

Not covered: drawing, stop texts (`luthier.generate.writing`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from luthier.errors import ModelError, Problem
from luthier.model.batching import Manner, context_of, write_rows
from luthier.model.forward import unwrap


@dataclass
class _Greedy:
    """A prompt and what follows it; see `luthier.model.batching.Row`."""

    prompt_ids: Sequence[int]
    room: int
    stop_ids: Sequence[int]
    ids: list[int] = field(default_factory=list)
    ended: str = ""

    def take(self, token: int) -> None:
        """One more, if it is no stop token."""
        if token in self.stop_ids:
            self.ended = "stop"
            return
        self.ids.append(token)
        if len(self.ids) == self.room:
            self.ended = "length"


def continue_many(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    stop: Callable[[], bool] | None = None,
    *,
    in_step: bool = False,
) -> list[list[int]]:
    """Token ids that follow each prompt, in the order of the prompts, stop tokens left out.

    Args:
        model: A causal language model, with or without an adapter.
        prompts: Ids of each prompt, BOS included.
        stop_ids: Any of these ends an answer.
        max_new_tokens: Longest answer; less where a prompt leaves less room in the model's context.
        stop: Asked at each token; true: answers end as they are.
        in_step: Ranks that share a model go on until all of them have ended.

    Raises:
        ModelError: E-EVAL-020 when a prompt leaves no room in the model's context.
    """
    room = rooms(model, prompts, max_new_tokens)
    rows = [_Greedy(prompt, most, stop_ids) for prompt, most in zip(prompts, room, strict=True)]
    write_rows(model, rows, Manner(stop_ids, stop=stop, in_step=in_step))
    return [row.ids for row in rows]


def rooms(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[int]:
    """How many tokens the answer to each prompt may have: `max_new_tokens`, or what the model's context leaves.

    Raises:
        ModelError: E-EVAL-020 when that is less than one; E-MODEL-007 when a token of a prompt has no embedding.
    """
    embeddings = len(unwrap(model).get_input_embeddings().weight)  # peft's layers around it know no other size
    if (largest := max((max(prompt, default=0) for prompt in prompts), default=0)) >= embeddings:
        found = f"a prompt has the token {largest:,}, and the model embeddings up to {embeddings - 1:,}"
        raise ModelError(Problem("E-MODEL-007", found, "leave that special token out of the prompt"))
    context = context_of(unwrap(model))
    if context is None:
        return [max_new_tokens for _ in prompts]
    longest = max((len(prompt) for prompt in prompts), default=0)
    if longest >= context:
        found = f"a prompt of {longest:,} tokens, and the model reads {context:,}"
        raise ModelError(Problem("E-EVAL-020", found, "shorten the prompt (in a chat: /reset)"))
    return [min(max_new_tokens, context - len(prompt)) for prompt in prompts]
