"""Rows as coloured tokens: what the model reads, what it learns, what is cut away. Plain data; nothing is drawn here.

    row of ids --tokenizer--> pieces of text, one a token --> prompt | trained | cut

A character can take several tokens; it is shown with the last of them, and the others are empty. Special tokens show
their own name, so that <s> as a token and <s> as text of a row can be told apart.

Not covered: rows that were left out before they became tokens (bad_rows: drop).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from luthier.data.pairs import alike
from luthier.errors import DataError, Problem
from luthier.gate.check import Subject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Part = Literal["prompt", "trained", "cut"]
_UNFINISHED = "\ufffd"
_LONGEST_CHARACTER = 8  # tokens
_BARS = 10  # about


@dataclass(frozen=True)
class Token:
    """One token.

    Attributes:
        text: What it stands for; as it is, also when that is no text to be shown.
        special: Whether the tokenizer keeps it for itself (BOS, EOS, the marks of turns).
    """

    id: int
    text: str
    part: Part
    special: bool


@dataclass(frozen=True)
class XRay:
    """One row, or one of a pair.

    Attributes:
        number: From 1, over all sources; that of its pair.
        place: ``file:line``.
        why: Why it is shown: ``longest``, ``shortest``, ``random``, ``asked for``.
        use: What becomes of it: ``trained on``, ``held out``, or why it is left out.
    """

    number: int
    place: str
    why: str
    use: str
    tokens: tuple[Token, ...]
    answer: str = ""
    """Of a pair: `chosen` or `rejected`."""

    @property
    def title(self) -> str:
        """`row 3`, `pair 3, chosen`."""
        return f"pair {self.number:,}, {self.answer}" if self.answer else f"row {self.number:,}"

    def count(self, part: Part) -> int:
        """Tokens of one part."""
        return sum(token.part == part for token in self.tokens)


@dataclass(frozen=True)
class Bar:
    """Rows of similar length: from `low` to `high` tokens; `over`: longer than max_seq_length."""

    low: int
    high: int
    rows: int
    over: bool


def xrays(subject: Subject, number: int, why: str = "asked for") -> list[XRay]:
    """One row of the data, or both of a pair; `xray` says the rest."""
    return [xray(subject, number, why, answer) for answer in range(subject.data.train.each)]


def xray(subject: Subject, number: int, why: str = "asked for", answer: int = 0) -> XRay:
    """One row of the data, also one that is left out.

    Args:
        subject: Rows and tokenizer.
        number: Of the row or the pair, from 1.
        why: Why it is shown.
        answer: Of a pair: 0 for the chosen one, 1 for the rejected one.

    Raises:
        DataError: E-GATE-003, no such row.
    """
    rows, unit = subject.data.train, subject.data.report.unit
    total = len(rows.store) // rows.each
    if not 1 <= number <= total:
        found = f"{unit.removesuffix('s')} {number:,} is asked for, and there are {total:,}"
        raise DataError(Problem("E-GATE-003", found, f"give a number from 1 to {total:,}", "--row"))
    first = (number - 1) * rows.each
    row = rows.store.row(first + answer, int(rows.store.lengths[first + answer]))
    use = _use(subject, first)
    limit = rows.limit if not use.startswith("left out") else len(row.input_ids)
    ids = row.input_ids.tolist()
    parts: list[Part] = ["trained" if trained else "prompt" for trained in row.trained]
    parts[limit:] = ["cut"] * len(parts[limit:])
    special = special_ids(subject.tokenizer)
    texts = pieces(subject.tokenizer, ids, special)
    tokens = (Token(*entry, entry[0] in special) for entry in zip(ids, texts, parts, strict=True))
    name = ("chosen", "rejected")[answer] if rows.each > 1 else ""
    return XRay(number, row.place, why, use, tuple(tokens), name)


def _use(subject: Subject, index: int) -> str:
    """What becomes of row `index` of the store, or of the pair that begins there, in words."""
    data, limit = subject.data, subject.data.train.limit
    rows = slice(index, index + data.train.each)
    if (data.train.chosen == index).any():
        return "trained on"
    if data.eval is not None and (data.eval.chosen == index).any():
        return "held out"
    if data.train.store.lengths[rows].max() > limit and subject.plan.config.data.overlong_rows == "drop":
        return f"left out: longer than max_seq_length ({limit:,} tokens)"
    if not data.train.store.trained_within(limit)[rows].all():
        return "left out: nothing left to train"
    if data.report.pairs and alike(data.train.store, limit)[index]:
        return "left out: both answers are the same tokens"
    return "left out: its question is trained, or its source's weight is below 1"


def telling_rows(subject: Subject, randoms: int = 3) -> list[XRay]:
    """The longest and the shortest row, or pair, that are trained on, and some that chance picks; none twice."""
    rows = subject.data.train
    whole = rows.store.lengths[rows.rows].sum(axis=1)
    rng = np.random.default_rng(subject.plan.config.training.seed)
    picked: dict[int, str] = {}
    for index, why in (
        (int(whole.argmax()), "longest"),
        (int(whole.argmin()), "shortest"),
        *((int(index), "random") for index in rng.permutation(len(rows))[: randoms + 2]),
    ):
        picked.setdefault(int(rows.chosen[index]) // rows.each + 1, why)
    return [shown for number, why in list(picked.items())[: randoms + 2] for shown in xrays(subject, number, why)]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokens that are not made of text."""
    return frozenset((*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()))


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], special: frozenset[int]) -> list[str]:
    """The text of each token, so that all of them joined are the text of the row.

    A token is decoded together with the ones before it, since some tokenizers drop the space that begins a text.
    """
    texts: list[str] = []
    before, start = 0, 0  # ids[before:start] is context, ids[start:] is not told yet
    for at, token in enumerate(ids):
        if token in special:
            if start < at:
                texts[-1] = _new_text(tokenizer, ids, before, start, at)
            texts.append(str(tokenizer.convert_ids_to_tokens(token)))
            before = start = at + 1
            continue
        text = _new_text(tokenizer, ids, before, start, at + 1)
        if text.endswith(_UNFINISHED) and at + 1 - start < _LONGEST_CHARACTER:
            texts.append("")
            continue
        texts.append(text)
        before, start = start, at + 1
    if start < len(ids):
        texts[-1] = _new_text(tokenizer, ids, before, start, len(ids))
    return texts


def _new_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], before: int, start: int, end: int) -> str:
    """What ids[start:end] add to the text of ids[before:start]."""

    def decoded(first: int, last: int) -> str:
        return str(tokenizer.decode(ids[first:last], clean_up_tokenization_spaces=False))

    return decoded(before, end)[len(decoded(before, start)) :]


def length_bars(subject: Subject) -> list[Bar]:
    """How long all rows are that were read, those that are left out too."""
    lengths, limit = subject.data.train.store.lengths, subject.data.train.limit
    step = _round_step(int(lengths.max()) / _BARS)
    counts = np.bincount(np.maximum(lengths - 1, 0) // step)
    return [Bar(n * step + 1, (n + 1) * step, int(rows), n * step >= limit) for n, rows in enumerate(counts)]


def _round_step(step: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 ... that is not smaller."""
    return next(size for size in _round_sizes() if size >= step)


def _round_sizes() -> Iterator[int]:
    scale = 1
    while True:
        yield from (scale, 2 * scale, 5 * scale)
        scale *= 10
