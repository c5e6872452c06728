"""Rows that are written together, of which others take the places when they have ended (continuous batching).

    waiting --as many as fit--> prompts --> a token of each --> a token of each --> ... --pause--+
       ^                          ^                                                              |
       |                          `-- who has ended leaves, who waits begins, the others go on <-+
       `-- joining(), and the last rows where memory would not hold all any longer

transformers' `generate` asks the model and chooses: one call for prompts, one from there to the next pause. Prompts are
padded on the left, so that all end where writing begins; the padding is masked, and each row's positions count from its
first real token:

    ids        . . a b c        mask  0 0 1 1 1        positions  - - 0 1 2
               d e f g h              1 1 1 1 1                   0 1 2 3 4

Rows join others where the lean path writes (`luthier.model.lean.writer`), whose cache can be regrouped. The models' own
layers have caches of many kinds: there, rows are carried along until the last of them has ended.

Not covered: beam search; caches that share what two prompts have in common (vLLM's prefix caching); prompts that are
read in parts, between the tokens of others (chunked prefill): these wait while a long one is read.

Shape letters: B rows, T tokens of the longest prompt, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from luthier.machine.ranks import on_any_rank
from luthier.model import attention
from luthier.model.forward import inference, unwrap
from luthier.model.lean.writer import KeyValueCache, LeanWriter
from luthier.model.writers import writing

MAX_BATCH = 32
"""Rows at once. More helps little where one token is limited by arithmetic."""
MAX_BATCH_TOKENS = 16_384
"""Tokens of all rows at once: 0.5 GiB of cache for a 1B Llama in 16 bits, 2 GiB for an 8B one."""
_AHEAD = 128
"""A row begins where so many more tokens of each have room; rows that grow beyond it can be put back later."""
_WORTH = 4
"""Who waits begins when all who wait can, or at least a row for each so many that are being written."""


class Row(Protocol):
    """What is to follow a prompt.

    Attributes:
        prompt_ids: Ids of the prompt, BOS included.
        ids: What was written so far, without the token that ended it.
        ended: Why it has ended; empty before. Who ends while it waits does not begin.
    """

    prompt_ids: Sequence[int]
    ids: list[int]
    ended: str

    @property
    def room(self) -> int:
        """Most tokens that may follow, at least one; the row ends itself when it has them."""

    def take(self, token: int) -> None:
        """A token was written; afterwards `ended` says whether it was the last."""


Choose = Callable[[Sequence[Any], Tensor], Tensor | None]
"""The next token of each row, int64 [B], by their logits, float32 [B, V]; None: the likeliest."""


@dataclass(frozen=True)
class Manner:
    """How rows are written.

    Attributes:
        stop_ids: Tokens that end a row.
        choose: Chooses tokens; None: the likeliest.
        joining: Asked for rows that have come meanwhile, at each token where they can join, else before each batch. It
            may end rows, also those that wait.
        stop: Asked at each token; true: all is over.
        in_step: Ranks that share a model, and write the same rows, go on until all of them have ended. `stop` then says
            the same on all.
    """

    stop_ids: Sequence[int]
    choose: Choose | None = None
    joining: Callable[[], Sequence[Row]] | None = None
    stop: Callable[[], bool] | None = None
    in_step: bool = False


def write_rows(model: nn.Module, rows: Sequence[Row], manner: Manner) -> None:
    """Write all rows and those that join them, as many at once as memory and the model's context allow.

    The longest prompts begin first, so that what does not fit fails early.

    Args:
        model: A causal language model, with or without an adapter.
        rows: None has ended.
        manner: How.
    """
    causal_lm = unwrap(model)
    waiting = deque(sorted(rows, key=lambda row: -len(row.prompt_ids)))
    with _growing(causal_lm), _bare(causal_lm), inference(model), writing(model) as writer:
        batch = _Batch(causal_lm, manner, waiting) if writer is None else _OpenBatch(causal_lm, manner, waiting, writer)
        batch.run()


class _Batch:
    """By the model's own layers: rows that began together, until all of them have ended.

    Attributes:
        rows: Being written.
        waiting: In the order in which they will begin.
        stopped: Whether all is over.
    """

    def __init__(self, causal_lm: Any, manner: Manner, waiting: deque[Row]) -> None:
        self._causal_lm, self._manner = causal_lm, manner
        self.rows: list[Row] = []
        self.waiting, self.stopped = waiting, False

    def run(self) -> None:
        """Until nobody is there any more."""
        while not self.stopped and self._someone_waits():
            self.rows = self._taken(self._fitting([]))
            self._begin(self.rows, max(row.room for row in self.rows))

    def hear(self, rows: Sequence[Row], tokens: Sequence[int]) -> list[bool]:
        """Hand rows their tokens; which of them `generate` need not go on with."""
        for row, token in zip(rows, tokens, strict=True):
            if not row.ended:
                row.take(token)
        self.stopped = self._manner.stop is not None and self._manner.stop()
        if self._manner.in_step:  # in `generate` who has ended would pass on, but hear and ask no more
            over = self.stopped or not on_any_rank(any(not row.ended for row in rows))
            return [over for _ in rows]
        if self.stopped or self._pause():
            return [True for _ in rows]
        return [bool(row.ended) for row in rows]

    def _someone_waits(self) -> bool:
        if self._manner.joining is not None:
            self.waiting.extend(self._manner.joining())
            self.waiting = deque(row for row in self.waiting if not row.ended)
        return bool(self.waiting)

    def _taken(self, count: int) -> list[Row]:
        return [self.waiting.popleft() for _ in range(count)]

    def _pause(self) -> bool:
        """Whether other rows had better be written from here."""
        return False

    def _fitting(self, going: Sequence[Row]) -> int:
        """How many of those that go on, and of those that wait behind them, can be written together."""
        longest = room = 0
        for count, row in enumerate((*going, *self.waiting)):
            longest, room = max(longest, _length(row)), max(room, row.room - len(row.ids))
            if count and (count == MAX_BATCH or self._too_much(count + 1, longest, room)):
                return count
        return len(going) + len(self.waiting)

    def _too_much(self, rows: int, longest: int, room: int) -> bool:
        """Who has ended is carried along: the context must hold the longest prompt with the longest answer."""
        reach = longest + room
        return rows * reach > MAX_BATCH_TOKENS or reach > (context_of(self._causal_lm) or reach)

    def _begin(self, rows: Sequence[Row], most: int, cache: KeyValueCache | None = None) -> None:
        """Read prompts, and what was written of them before; then at most so many tokens."""
        longest, pad = max(map(_length, rows)), self._manner.stop_ids[0]
        padding = [longest - _length(row) for row in rows]
        ids_BT = [[pad] * before + [*row.prompt_ids, *row.ids] for before, row in zip(padding, rows, strict=True)]
        mask_BT = [[0] * before + [1] * (longest - before) for before in padding]
        self._generate(rows, torch.tensor(ids_BT), torch.tensor(mask_BT), most, cache)

    def _generate(
        self, rows: Sequence[Row], ids_BT: Tensor, mask_BT: Tensor, most: int, cache: KeyValueCache | None
    ) -> None:
        device, manner = next(self._causal_lm.parameters()).device, self._manner
        options: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
        if manner.choose is not None:
            options["logits_processor"] = LogitsProcessorList([_Choosing(rows, manner.choose)])
        self._causal_lm.generate(
            input_ids=ids_BT.to(device),
            attention_mask=mask_BT.to(device),
            max_new_tokens=most,
            eos_token_id=None if manner.in_step else list(manner.stop_ids),
            pad_token_id=manner.stop_ids[0],
            do_sample=False,
            use_cache=True,
            stopping_criteria=StoppingCriteriaList([_Hearing(rows, self.hear)]),
            synced_gpus=False,  # `hear` sees to it; where it is left out, `generate` looks for itself
            **options,
        )


class _OpenBatch(_Batch):
    """By the lean path: rows leave and join at any token."""

    def __init__(self, causal_lm: Any, manner: Manner, waiting: deque[Row], writer: LeanWriter) -> None:
        super().__init__(causal_lm, manner, waiting)
        self._writer, self._cache = writer, writer.cache(0, 0)

    def run(self) -> None:
        """Until nobody is there any more."""
        while not self.stopped and self._regroup():
            if self.stopped or all(row.ended for row in self.rows):  # with their first tokens
                continue
            last_B1 = torch.tensor([[row.ids[-1] if row.ids else 0] for row in self.rows])
            all_BT = torch.ones(len(self.rows), self._cache.tokens + 1, dtype=torch.long)
            most = max(row.room - len(row.ids) for row in self.rows)
            self._generate(self.rows, last_B1, all_BT, most, self._cache)  # the cache knows all columns but the last

    def _regroup(self) -> bool:
        """Who has ended leaves, and who fits begins with a first token; false: nobody is left."""
        self._someone_waits()
        going = [number for number, row in enumerate(self.rows) if not row.ended]
        count = self._fitting([self.rows[number] for number in going])
        going, put_back = going[:count], going[count:]
        self.waiting.extendleft(self.rows[number] for number in reversed(put_back))
        begun = [] if put_back else self._taken(count - len(going))
        new = self._writer.cache(len(begun), max(map(_length, begun), default=0))
        if begun:
            self._begin(begun, 1, new)
        self._cache.regroup(going, new)
        self.rows = [*(self.rows[number] for number in going), *begun]
        self._cache.most = _most(self.rows)
        return bool(self.rows)

    def _pause(self) -> bool:
        going = [row for row in self.rows if not row.ended]
        if self._cache.full:
            return True
        begin = self._fitting(going) - len(going) if self._someone_waits() else 0
        if begin > 0 and (begin == len(self.waiting) or begin * _WORTH >= len(self.rows)):
            return True
        return not self._cache.recorded and 2 * len(going) <= len(self.rows)  # a recorded step costs the same for few

    def _too_much(self, rows: int, longest: int, room: int) -> bool:
        """Memory is asked for as rows grow, and who has ended leaves."""
        return rows * (longest + min(room, _AHEAD)) > MAX_BATCH_TOKENS


def context_of(causal_lm: Any) -> int | None:
    """How many tokens a model reads at once; None: its config names no limit."""
    context: int | None = getattr(causal_lm.config.get_text_config(), "max_position_embeddings", None)
    return context


def _length(row: Row) -> int:
    return len(row.prompt_ids) + len(row.ids)


def _most(rows: Sequence[Row]) -> int:
    """Tokens that each row may grow to before some are put back."""
    reach = max((len(row.prompt_ids) + row.room for row in rows), default=0)
    return min(reach, MAX_BATCH_TOKENS // len(rows)) if len(rows) > 1 else reach


class _Choosing(LogitsProcessor):  # type: ignore[misc]
    """Leaves each row one possible token: the one that was chosen for it."""

    def __init__(self, rows: Sequence[Row], choose: Choose) -> None:
        self._rows, self._choose = rows, choose

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen_B = self._choose(self._rows, scores)
        if chosen_B is None:
            return scores
        return torch.full_like(scores, -torch.inf).scatter(1, chosen_B[:, None], 0.0)


class _Hearing(StoppingCriteria):  # type: ignore[misc]
    """Hands rows their new tokens; says which have ended."""

    def __init__(self, rows: Sequence[Row], hear: Callable[[Sequence[Row], Sequence[int]], list[bool]]) -> None:
        self._rows, self._hear = rows, hear

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.tensor(self._hear(self._rows, input_ids[:, -1].tolist()), device=input_ids.device)


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
