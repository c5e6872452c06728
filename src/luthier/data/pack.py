"""Which rows of a step share a micro-batch: as few micro-batches as the token budget allows, evenly filled.

Packing happens inside the optimizer step only, so a step has the same rows however they are packed, and the gradient
of their token mean is the same. The bins come from longest-first best-fit; it needs at most 11/9 of the fewest
possible bins plus one (Johnson 1974). Then the same number of bins is filled evenly, longest first into the emptiest:
a pass of few tokens costs more a token than a pass of many.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from heapq import heapreplace


def pack(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group items so that each group's lengths add up to at most `token_budget`.

    Args:
        lengths: Tokens of each item.
        token_budget: Most tokens in a group; an item longer than that is a group of its own.

    Returns:
        Groups of item numbers; inside a group and between groups in the order of the items.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    bins: list[list[int]] = []
    room: list[
        tuple[int, int]
    ] = []  # (tokens that still fit, bin), ascending: the first that is large enough fits best
    for item in longest_first:
        place = bisect_left(room, (lengths[item], 0))
        if place == len(room):
            bins.append([])
            free, target = token_budget, len(bins) - 1
        else:
            free, target = room.pop(place)
        bins[target].append(item)
        insort(room, (free - lengths[item], target))
    even = evenly(lengths, len(bins))
    fits = all(sum(lengths[item] for item in group) <= token_budget or len(group) == 1 for group in even)
    return sorted(sorted(group) for group in (even if fits else bins))


def evenly(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Deal items into `count` bins of about equal length: longest first, each into the emptiest.

    Returns:
        Item numbers of each bin, the longest first. Where there are as many items as bins, no bin is empty.
    """
    bins: list[list[int]] = [[] for _ in range(count)]
    emptiest = [(0, target) for target in range(count)]  # a heap
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        held, target = emptiest[0]
        bins[target].append(item)
        heapreplace(emptiest, (held + lengths[item], target))
    return bins


def pad(lengths: Sequence[int], token_budget: int, most_rows: int) -> list[list[int]]:
    """Group items for padded batches: rows x longest row stays within the budget, similar lengths together."""
    groups: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        last = groups[-1] if groups else []
        if last and len(last) < most_rows and (len(last) + 1) * lengths[last[0]] <= token_budget:
            last.append(item)
        else:
            groups.append([item])
    return sorted(sorted(group) for group in groups)
