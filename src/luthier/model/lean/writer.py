r"""Writing on the lean path: what comes next in each row, with a cache of keys and values (incremental decoding).

    prompt     B x T tokens --layers--> keys and values into the cache, logits of the last place
    step       B x 1 tokens --layers--> one more place in the cache, the same

transformers' `generate` asks, chooses and ends; this stands in for the model's own forward pass. Of 16 layers in 4 bits
with an adapter that is some 19,000 calls of Python's functions a token, most of them bookkeeping of peft and
bitsandbytes, and a GPU waits for them. Here it is one product for each stack, and on CUDA a step is recorded and
replayed.

A cache has room for a thousand tokens, and doubles when these are not enough. Its rows end in the same place, whenever
they began. What lies in front of them is padding, which nobody looks at but a padded place itself, as a row of
attention without anything to see would be no number. In a step query heads that share a key/value head are rows of one
product, and nothing is copied; keys and values of a prompt are repeated for each head, as the mask, which is larger,
would be otherwise.

    step    queries (B, K, G, S)    keys, values (B, K, C, S)    mask (B, 1, 1, C)
    prompt  queries (B, H, T, S)    keys, values (B, H, T, S)    mask (B, 1, T, T), or none

Shape letters: B rows, T new tokens of each, M = B T, C places in the cache, H query heads, K key/value heads,
G = H / K, S size of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers.modeling_outputs import CausalLMOutputWithPast

from luthier.machine.memory import is_out_of_memory
from luthier.model.bucketed import Heads
from luthier.model.lean.graphs import Recorder
from luthier.model.lean.layer import Layout
from luthier.model.lean.parts import Parts, as_written

_PLACES = 1024
"""How many a cache has at least, where so many can be needed: most answers never need more."""


class KeyValueCache:
    """Keys and values of a batch in all layers, and where its rows stand. `generate` carries it from step to step.

    What a recorded step reads or changes is on the device.

    Attributes:
        layers: Of each layer keys and values, (B, K, C, S) both.
        places_C: 0, 1, ..., C - 1.
        seen_BC: Which places hold a token of a prompt or an answer.
        place_1: The next free place, the same in all rows.
        position_B1: The next position of each row, which does not count padding.
        tokens: How many places are filled.
        most: How many places it may have.
        replay: A step, recorded: reads `ids_B1`, and leaves its logits (B, V) where it returns them.
    """

    is_compileable = is_croppable = False

    def __init__(self, parts: Parts, rows: int, most: int) -> None:
        like, self.most = parts.norm_D, most
        shapes = [(rows, layer.key_heads, 0, layer.size) for layer in parts.layers]
        self.layers = [(like.new_empty(shape), like.new_empty(shape)) for shape in shapes]
        self.places_C = torch.arange(0, device=like.device)
        self.seen_BC = self.places_C.new_zeros(rows, 0, dtype=torch.bool)
        self.place_1, self.position_B1 = self.places_C.new_zeros(1), self.places_C.new_zeros(rows, 1)
        self.ids_B1 = torch.zeros_like(self.position_B1)
        self.tokens = 0
        self.replay: Callable[[], Tensor] | None = None

    def take(self, tokens: int) -> None:
        """So many more tokens are there. Where they have no place, there will be twice as many, up to the most."""
        self.tokens += tokens
        if self.tokens <= len(self.places_C):
            return
        places = min(self.most, max(self.tokens, 2 * len(self.places_C), _PLACES))
        # a recorded step reads places that nobody has written to yet, times 0: they must hold numbers
        more = (0, 0, 0, places - len(self.places_C))
        self.layers = [(pad(key, more), pad(value, more)) for key, value in self.layers]
        self.places_C = torch.arange(places, device=self.places_C.device)
        self.seen_BC = pad(self.seen_BC, more[2:])
        self.replay = None

    @property
    def full(self) -> bool:
        """Whether there is no place for another token."""
        return self.tokens >= self.most

    @property
    def recorded(self) -> bool:
        """Whether steps are replayed."""
        return self.replay is not None

    def regroup(self, kept: Sequence[int], new: KeyValueCache) -> None:
        """Go on with some rows, and behind them all of another cache, without the places that none of them fills.

        What was recorded stays true where there are as many rows as before.
        """
        position_B1 = torch.cat([self.position_B1[kept], new.position_B1])
        filled, self.tokens = self.tokens, int(position_B1.max()) if len(position_B1) else 0
        in_place = len(position_B1) == len(self.position_B1) and self.tokens <= len(self.places_C)
        everyone = range(len(new.position_B1))

        def moved(mine: Tensor, others: Tensor) -> Tensor:
            last = (_last(mine, kept, filled, self.tokens), _last(others, everyone, new.tokens, self.tokens))
            if not in_place:
                return torch.cat(last)
            mine[..., : self.tokens, :] = torch.cat(last)
            mine[..., self.tokens : filled, :] = 0  # what others left there need not be numbers
            return mine

        for number, (mine, others) in enumerate(zip(self.layers, new.layers, strict=True)):
            self.layers[number] = (moved(mine[0], others[0]), moved(mine[1], others[1]))
        self.seen_BC = moved(self.seen_BC[..., None], new.seen_BC[..., None])[..., 0]
        self.place_1.fill_(self.tokens)
        if in_place:
            self.position_B1.copy_(position_B1)
            return
        self.places_C = torch.arange(self.tokens, device=self.places_C.device)
        self.position_B1, self.ids_B1 = position_B1, torch.zeros_like(position_B1)
        self.replay = None

    def get_seq_length(self) -> int:
        """How many places are filled, as `generate` asks for it."""
        return self.tokens


def _last(store: Tensor, rows: Sequence[int], filled: int, tokens: int) -> Tensor:
    """Of some rows (dimension 0) the last places that are filled (dimension -2), so many; nothing in front of them."""
    start = max(0, filled - tokens)
    some = store.narrow(-2, start, filled - start)[list(rows)]
    return pad(some, (0, 0, tokens - some.shape[-2], 0))


@dataclass(frozen=True)
class _Cached:
    """Attention of a layer over its cache; see `luthier.model.lean.attention.Attends`."""

    both: tuple[Tensor, Tensor]
    scaling: float
    window: int | None

    def forward(self, heads: Heads, inputs: dict[str, Any]) -> tuple[Tensor, None]:
        """Put the new keys and values into their places, and look at all that are seen."""
        query_MHS, *new = heads
        rows, key_heads, _, size = self.both[0].shape
        for store_BKCS, new_MKS in zip(self.both, new, strict=True):
            store_BKCS.index_copy_(2, inputs["places"], new_MKS.view(rows, -1, key_heads, size).transpose(1, 2))
        query_BHTS = query_MHS.view(rows, -1, *query_MHS.shape[1:]).transpose(1, 2)
        key, value = (store_BKCS[:, :, : inputs["reach"]] for store_BKCS in self.both)
        shared, mask = query_BHTS.shape[1] // key_heads, inputs["masks"][self.window]
        if query_BHTS.shape[2] == 1:
            query_BKGS = query_BHTS.reshape(rows, key_heads, shared, size)
            output = scaled_dot_product_attention(query_BKGS, key, value, mask, scale=self.scaling)
        else:
            key, value = (x.repeat_interleave(shared, 1) for x in (key, value))
            options: dict[str, Any] = {"is_causal": mask is None, "scale": self.scaling}
            output = scaled_dot_product_attention(query_BHTS, key, value, mask, **options).transpose(1, 2)
        return output.reshape(query_MHS.shape), None


class LeanWriter:
    """The forward pass that `generate` asks for.

    Args:
        parts: Of the model.
        refresh: Reads the adapter's values, which may have changed; to be called before each batch.
        recorder: Records a step, so that the next ones are replayed; None: each is launched.
    """

    def __init__(self, parts: Parts, refresh: Callable[[], None], recorder: Recorder | None = None) -> None:
        self.refresh = refresh
        self.parts, self._recorder = parts, recorder
        self._too_many: float = inf  # rows that found no memory for a recording
        self._windows = {layer.window for layer in parts.layers}

    def cache(self, rows: int, most: int) -> KeyValueCache:
        """A fresh one, for so many rows of at most so many tokens, prompt and answer together."""
        return KeyValueCache(self.parts, rows, most)

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: KeyValueCache,
        attention_mask: Tensor | None = None,
        **ignored: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, 1, V) of what comes after the last token of each row.

        Args:
            input_ids: The prompts (B, T), padded on the left; later one token of each row.
            past_key_values: Of `cache`; changed in place.
            attention_mask: Which of all tokens so far are no padding; None: all.
            **ignored: What else `generate` hands to models.
        """
        cache, prompts = past_key_values, not past_key_values.tokens
        cache.take(input_ids.shape[1])
        with as_written(input_ids.device.type):
            if prompts:
                padded = attention_mask is not None and not bool(attention_mask.all())
                logits_BV = self._next(cache, input_ids, attention_mask if padded else None, cache.tokens)
            elif cache.replay is not None:
                cache.ids_B1.copy_(input_ids)
                logits_BV = cache.replay()
            else:
                logits_BV = self._next(cache, input_ids, None, cache.tokens)
                self._record(cache)
        return CausalLMOutputWithPast(logits=logits_BV[:, None], past_key_values=cache)

    def _record(self, cache: KeyValueCache) -> None:
        """Record the steps to come: all look at all places, as a recording's sizes cannot grow."""
        rows = len(cache.ids_B1)
        if self._recorder is None or rows >= self._too_many:
            return
        try:
            cache.replay = self._recorder(lambda: self._next(cache, cache.ids_B1, None, len(cache.places_C)))
        except Exception as error:  # steps of so many rows are launched from now on, or all of them
            self._too_many = rows if is_out_of_memory(error) else 0

    def _next(self, cache: KeyValueCache, ids_BT: Tensor, real_BT: Tensor | None, reach: int) -> Tensor:
        """The logits (B, V), with attention over the first `reach` places; `real_BT` None: there is no padding."""
        rows, tokens = ids_BT.shape
        places_T = cache.place_1 + cache.places_C[:tokens]
        counted_BT = (torch.ones_like(ids_BT) if real_BT is None else real_BT).cumsum(1)
        positions_BT = (cache.position_B1 + counted_BT - 1).clamp_min(0)
        if real_BT is None:
            cache.seen_BC.index_fill_(1, places_T, True)
        else:
            cache.seen_BC.index_copy_(1, places_T, real_BT.bool())
        whole = real_BT is None and tokens == reach  # nothing is there but these tokens, and all of them are real
        stream, cos_MS, sin_MS = self.parts.begin(ids_BT.reshape(1, -1), positions_BT.reshape(1, -1))
        inputs = {"places": places_T, "reach": reach, "masks": self._masks(cache, places_T, reach, whole=whole)}
        last_B = torch.arange(tokens - 1, rows * tokens, tokens, device=ids_BT.device)
        layout = Layout(cos_MS, sin_MS, inputs, last_B)
        for number, (layer, both) in enumerate(zip(self.parts.layers, cache.layers, strict=True), 1):
            attention = _Cached(both, layer.scaling, layer.window)
            layer.forward(stream, layout, last=number == len(cache.layers), attention=attention)
        cache.place_1 += tokens
        cache.position_B1 += counted_BT[:, -1:]
        head_VD: Tensor = self.parts.head.weight.detach()
        return self.parts.end(stream).to(head_VD.dtype) @ head_VD.T

    def _masks(
        self, cache: KeyValueCache, places_T: Tensor, reach: int, *, whole: bool
    ) -> dict[int | None, Tensor | None]:
        """What is added to the scores (B, 1, T, reach), 0 at what is seen; None: all before it. For each window."""
        masks: dict[int | None, Tensor | None] = {}
        to_C, from_T1 = cache.places_C[:reach], places_T[:, None]
        for window in self._windows:
            if whole and (window is None or window >= reach):
                masks[window] = None
                continue
            seen_BTC = cache.seen_BC[:, None, :reach] & (to_C < from_T1)
            if window is not None:
                seen_BTC &= to_C > from_T1 - window
            seen_BTC |= to_C == from_T1  # itself
            added_BTC = torch.zeros_like(seen_BTC, dtype=self.parts.build.dtype).masked_fill_(~seen_BTC, -torch.inf)
            masks[window] = added_BTC[:, None]
        return masks
