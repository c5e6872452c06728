"""Counts what came of the rows, for the report: lengths, cuts, duplicates, beginnings and ends.

Not covered: reading and choosing them (`luthier.data.prepare`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from luthier.config.schema import DataSection
from luthier.data.cache import Shard
from luthier.data.pairs import both_ways_round, pair_keys
from luthier.data.problems import SHOWN_PER_KIND
from luthier.data.report import DataReport, Dropped, SourceReport
from luthier.data.rows import Bool, RowStore, Selection
from luthier.data.split import contradicted, repeated
from luthier.data.template import NO_TEMPLATE, Template, adds_bos, adds_nothing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def count(
    train: Selection,
    kept: Bool,
    held: Bool,
    dropped: list[Dropped],
    data: DataSection,
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    read: list[Shard],
) -> DataReport:
    """The report on rows, or pairs.

    Args:
        train: What is trained on.
        kept: Which rows [N] of the store are trained on or held out.
        held: Which are held out.
        dropped: What was left out before.
        data: The settings.
        template: The prompt template, as it was used.
        tokenizer: The model's.
        read: Shards of the sources, that of `eval_split` last.
    """
    store, limit, each = train.store, data.max_seq_length, train.each
    trained = store.trained_within(int(store.lengths.max()))[kept].sum(dtype=np.int64)
    cut = int(trained - store.trained_within(limit)[kept].sum(dtype=np.int64))
    p50, p90, p99 = (int(value) for value in np.percentile(store.lengths, [50, 90, 99], method="higher"))
    rendered = any(shard.found.rendered for shard in read)
    ended = store.ends_trained(template.stop_ids(tokenizer), limit)
    duplicates, contradictions = _same_questions(store, kept & store.begins)
    entries = [*((source, source.split, "train") for source in data.datasets)]
    if data.eval_split is not None:
        entries.append((data.datasets[0], data.eval_split, "eval"))
    own = tokenizer.chat_template
    return DataReport(
        sources=tuple(
            SourceReport(source.path, split, use, shard.found.format, shard.table.num_rows // each, shard.hit)
            for (source, split, use), shard in zip(entries, read, strict=True)
        ),
        template=template.name if rendered else NO_TEMPLATE,
        leaves_chat_template=template.name == NO_TEMPLATE and bool(own) and not adds_nothing(own),
        train_rows=len(train),
        eval_rows=int(held.sum()) // each,
        dropped=tuple(dropped),
        max_seq_length=limit,
        kept_rows=int(kept.sum()) // each,
        truncated_rows=int((kept & ~store.whole(store.lengths <= limit)).sum()) // each,
        completion_tokens_cut=cut,
        completion_share_cut=cut / int(trained),
        duplicate_rows=len(duplicates),
        duplicate_places=tuple(store.place(int(row)) for row in duplicates[:SHOWN_PER_KIND]),
        contradicting_prompts=len(contradictions),
        contradicting_places=tuple(
            f"{store.place(int(one))} and {store.place(int(other))}" for one, other in contradictions[:SHOWN_PER_KIND]
        ),
        bos_share=_bos_share(train, kept, template.source if rendered else "", template, tokenizer),
        eos_share=float(store.whole(ended)[kept & store.ends].mean()),
        split_rows=int((store.begins & ~store.ends).sum()),
        split_parts=int((~(store.begins & store.ends)).sum()),
        tokens=int(train.lengths.sum(dtype=np.int64)),
        trained_tokens=int(train.trained.sum(dtype=np.int64)),
        length_p50=p50,
        length_p90=p90,
        length_p99=p99,
        length_max=int(store.lengths.max()),
        special_tokens=_special_tokens(read),
        touching_rows=sum(shard.found.touching_rows for shard in read),
        touching_example=next((shard.found.touching_example for shard in read if shard.found.touching_rows), ""),
        special_places=tuple(place for shard in read for place in shard.found.special_places)[:SHOWN_PER_KIND],
        system=_shared_system(read[: len(data.datasets)]),
        pairs=each > 1,
        chosen_tokens=int(store.trained_within(limit)[train.chosen].sum(dtype=np.int64)),
    )


def _special_tokens(read: list[Shard]) -> dict[str, int]:
    """Special token -> rows that hold it, of all sources."""
    special: dict[str, int] = {}
    for shard in read:
        for token, rows in shard.found.special_tokens.items():
            special[token] = special.get(token, 0) + rows
    return special


def _same_questions(store: RowStore, kept: Bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows (or pairs) [R] that stand there already, and two [Q, 2] for each question that contradict each other.

    Args:
        store: All rows.
        kept: Which rows [N] count.

    Returns:
        Numbers of rows of the store, of a pair its first.
    """
    prompts, rows, numbers = store.prompt_keys[kept], store.row_keys[kept], np.flatnonzero(kept)[:: store.each]
    if store.each == 1:
        return numbers[repeated(rows)], numbers[contradicted(prompts, rows)]
    return numbers[repeated(pair_keys(rows[::2], rows[1::2]))], numbers[both_ways_round(prompts, rows)]


def _shared_system(trained: list[Shard]) -> str:
    """The system message that all rows of all sources have."""
    systems = {system for shard in trained for system in shard.found.systems}
    return systems.pop() if len(systems) == 1 else ""


def _bos_share(
    train: Selection, kept: Bool, used: str, template: Template, tokenizer: PreTrainedTokenizerBase
) -> float | None:
    """Measured on the tokens themselves; ``None`` if neither the tokenizer nor the template in use write BOS."""
    bos = tokenizer.bos_token_id
    if bos is None or not (adds_bos(tokenizer) or "bos_token" in used):
        return None
    store, ends_too = train.store, bos in template.stop_ids(tokenizer)
    return float(store.whole(store.begins_once(bos, ends_too=ends_too))[kept & store.begins].mean())
