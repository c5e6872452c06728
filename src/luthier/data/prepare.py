"""From a config to rows of tokens: the one door of this room.

    sources -> rows -> format -> template -> tokens and mask -> cache on disk -> train and eval selections + report

Not covered: the order of an epoch, packing and tensors (`luthier.data.order`, `pack`, `collate`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luthier.config.plan import DataFacts
from luthier.config.schema import Config, DataSection, DatasetSource
from luthier.data.cache import ROWS_VERSION, Shard, build_shard, cache_folder, load_shard
from luthier.data.count import count
from luthier.data.messages import Message
from luthier.data.pairs import ROWS_OF_A_PAIR, alike
from luthier.data.problems import SHOWN_PER_KIND, Problems, refuse
from luthier.data.report import DataReport, Dropped, Kind
from luthier.data.rows import Bool, Int64, RowStore, Selection
from luthier.data.sources import RowSource, open_source
from luthier.data.split import draw, hold_out, not_in
from luthier.data.template import Template, load_template
from luthier.data.tokenize import Batch, Found, RowTokenizer, tokenizer_hash
from luthier.errors import CODES, DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Prepared:
    """Rows ready to be packed.

    Attributes:
        train: Rows of an epoch, or pairs of them (`objective: dpo`), in no particular order.
        eval: Held-out ones; ``None`` if none were asked for.
        template: The prompt template, to be saved with the adapter. Where it rendered no row: the text as it is, or
            what the config names.
        report: What was found.
        fingerprint: SHA-256 over content, template, tokenizer, the settings that choose rows, and this code's version.
        contents: What was read: file -> SHA-256 of its bytes, or hub dataset -> its fingerprint.
        tokenizer_hash: SHA-256 over all of the tokenizer that decides ids.
    """

    train: Selection
    eval: Selection | None
    template: Template
    report: DataReport
    fingerprint: str
    contents: dict[str, str]
    tokenizer_hash: str

    @property
    def system(self) -> str:
        """The system message that all rows of the training have; empty where they have none, or several."""
        return self.report.system

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase, instruction: str) -> list[int]:
        """Token ids of an instruction as the rows of the training begin, their system message included."""
        asked = [*([Message("system", self.system)] if self.system else []), Message("user", instruction)]
        return self.template.prompt_ids(tokenizer, asked)

    @property
    def facts(self) -> DataFacts:
        """The numbers that the plan needs."""
        both = [rows for rows in (self.train, self.eval) if rows is not None]
        longest = [int(rows.row_lengths.max()) for rows in both]
        return DataFacts(
            train_rows=len(self.train),
            eval_rows=len(self.eval) if self.eval is not None else 0,
            train_tokens=self.report.tokens,
            trained_tokens=self.report.trained_tokens,
            longest_row_tokens=max(longest),
            template=self.report.template,
            fingerprint=self.fingerprint,
            pairs=self.report.pairs,
        )


def prepare(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    *,
    base_dir: Path | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Read, check, tokenize (or find in the cache), split and count the rows of a config.

    Args:
        config: Its `data` section, `training.seed` and `training.objective` are used.
        tokenizer: The model's tokenizer; it is not changed.
        base_dir: Folder that relative paths start from; default: the working directory.
        progress: Called with what is being done and the rows done so far, about every 1,000 rows.

    Returns:
        The rows, memory-mapped.

    Raises:
        DataError: Anything wrong with sources, rows or template; as many problems at once as can be found.
    """
    base_dir = base_dir or Path.cwd()
    data, seed = config.data, config.training.seed
    each = ROWS_OF_A_PAIR if config.training.objective == "dpo" else 1
    template = load_template(data.prompt_template, tokenizer, base_dir)
    wanted = [(source, source.split) for source in data.datasets]
    if data.eval_split is not None:
        wanted.append((data.datasets[0], data.eval_split))
    tokenized = _Tokenized(config, tokenizer, template, base_dir, progress or (lambda *_: None))
    read = tokenized.all(wanted)
    if data.prompt_template == "auto" and not any(shard.found.rendered for shard, _ in read):
        template = template.as_it_is
    split_at = data.max_seq_length if data.overlong_rows == "split" else None
    store = RowStore((shard.table for shard, _ in read), split_at, each)
    for_eval = store.table == len(data.datasets)

    usable, dropped = _usable(store, data)
    dropped = [*(drop for shard, _ in read for drop in _bad(shard)), *dropped]
    if not usable[~for_eval].any():
        raise _nothing_left(store, dropped, data)
    held, overlap = _held_out(store, usable, for_eval, data, seed)
    if overlap.any():
        reason = "their prompt is among the training rows (removed from evaluation)"
        dropped.append(_dropped(store, overlap, "overlap", reason))
    if data.eval_split is not None and not held.any():
        found = f"no row of eval_split is usable ({', '.join(f'{drop.rows:,} {drop.reason}' for drop in dropped)})"
        raise refuse("E-DATA-042", found, "evaluate on other rows, or use val_set_size", "data.eval_split")
    trained = usable & ~for_eval & ~held
    chosen = np.concatenate(
        [
            draw(store.firsts(trained & (store.table == number)), source.weight, seed + number)
            for number, source in enumerate(data.datasets)
        ]
    )
    train = Selection(store, chosen, data.max_seq_length)
    evaluated = Selection(store, store.firsts(held), data.max_seq_length) if held.any() else None
    return Prepared(
        train=train,
        eval=evaluated,
        template=template,
        report=count(train, trained | held, held, dropped, data, template, tokenizer, [shard for shard, _ in read]),
        fingerprint=_fingerprint([key for _, key in read], data, seed),
        contents=tokenized.contents,
        tokenizer_hash=tokenized.tokenizer_hash,
    )


class _Tokenized:
    """Sources to shards: from the cache, or built into it."""

    def __init__(
        self,
        config: Config,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        base_dir: Path,
        progress: Progress,
    ) -> None:
        data, objective = config.data, config.training.objective
        self._rows = RowTokenizer(
            tokenizer,
            template,
            completion_only=data.completion_only_loss,
            drop_bad=data.bad_rows == "drop",
            objective=objective,
        )
        self.contents: dict[str, str] = {}
        self.tokenizer_hash = tokenizer_hash(tokenizer)
        self._decided_by = [ROWS_VERSION, template.hash, self.tokenizer_hash, data.completion_only_loss]
        self._decided_by.append(data.bad_rows)
        if objective != "sft":
            self._decided_by.append(objective)
        self._folder = cache_folder(data.cache_dir, base_dir)
        self._base_dir = base_dir
        self._progress = progress

    def all(self, wanted: list[tuple[DatasetSource, str]]) -> list[tuple[Shard, str]]:
        """Shards and their keys; the problems of all sources come in one error."""
        read: list[tuple[Shard, str]] = []
        problems: list[Problem] = []
        for source, split in wanted:
            try:
                read.append(self._one(source, split))
            except DataError as error:
                problems += error.problems
        if problems:
            raise DataError(*problems)
        return read

    def _one(self, config: DatasetSource, split: str) -> tuple[Shard, str]:
        source = open_source(config, split, self._base_dir)
        self.contents |= source.contents
        decided_by = [*self._decided_by, source.fingerprint, config.format, config.columns]
        key = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()
        shard = load_shard(self._folder, key)
        if shard is None:
            found = Found()
            shard = build_shard(self._folder, key, self._batches(source, config, found), found)
        return shard, key

    def _batches(self, source: RowSource, config: DatasetSource, found: Found) -> Iterator[Batch]:
        problems = Problems()
        self._progress(f"tokenizing {source.name}", 0)
        for batch in self._rows.batches(source, config, problems, found):
            yield batch
            self._progress(f"tokenizing {source.name}", found.rows)
        problems.raise_if_any()
        if not found.rows:
            raise refuse("E-DATA-008", f"no rows in split {source.split}", "give a file with rows", source.name)
        if found.rows == sum(found.bad_rows.values()):
            places = ", ".join(place for few in found.bad_places.values() for place in few)
            what = f"none of {found.rows:,} rows can be used ({', '.join(found.bad_rows)}; {places})"
            raise refuse("E-DATA-041", what, "write `bad_rows: error` to see what is wrong with each", "data.bad_rows")


def _usable(store: RowStore, data: DataSection) -> tuple[Bool, list[Dropped]]:
    """Which rows [N] can be trained on or evaluated, and why the others cannot; of a pair both or none."""
    limit = data.max_seq_length
    fits = store.whole(store.lengths <= limit)
    if data.overlong_rows == "error" and not fits.all():
        raise _overlong(store, store.firsts(~fits), limit)
    dropped: list[Dropped] = []
    left = np.ones(len(store), dtype=np.bool_) if data.overlong_rows == "truncate" else fits
    if not left.all():
        dropped.append(_dropped(store, ~left, "overlong", f"longer than max_seq_length ({limit:,} tokens)"))
    untrained = left & ~store.whole(store.trained_within(limit) > 0)
    if untrained.any():
        reason = f"nothing left to train (the prompt alone reaches max_seq_length, {limit:,} tokens)"
        dropped.append(_dropped(store, untrained, "unlabelled", reason))
    left = left & ~untrained
    same = left & alike(store, limit) if store.each == ROWS_OF_A_PAIR else np.zeros_like(left)
    if same.any():
        reason = f"the same answer twice, as tokens (of the first {limit:,})"
        dropped.append(_dropped(store, same, "alike", reason))
    return left & ~same, dropped


def _overlong(store: RowStore, rows: Int64, limit: int) -> DataError:
    """The first of the rows (of pairs, their first ones) that are too long, and how many more there are."""
    longest = int(store.lengths.max())
    split = " (plain text: `split`)" if store.each == 1 else ""
    fix = f"write `max_seq_length: {longest}`, or `overlong_rows: drop`{split}"
    tokens = [int(store.lengths[row : row + store.each].max()) for row in rows[:SHOWN_PER_KIND]]
    shown = [
        Problem("E-DATA-040", f"{length:,} tokens, over {limit:,}", fix, store.place(int(row)))
        for length, row in zip(tokens, rows, strict=False)
    ]
    if len(rows) > len(shown):
        last = shown[-1]
        found = f"{last.found} (and {len(rows) - len(shown):,} more like this)"
        shown[-1] = Problem(last.code, found, fix, last.where)
    return DataError(*shown)


def _bad(shard: Shard) -> list[Dropped]:
    """Rows of a source that could not be used at all, by the error that they would have been."""
    return [
        Dropped("bad", f"{CODES[code].title} ({code})", rows, tuple(shard.found.bad_places[code]))
        for code, rows in sorted(shard.found.bad_rows.items())
    ]


def _held_out(store: RowStore, usable: Bool, for_eval: Bool, data: DataSection, seed: int) -> tuple[Bool, Bool]:
    """Rows [N] to evaluate on, and rows [N] of the eval split that are removed because they are trained on."""
    keys = store.prompt_keys
    if data.eval_split is not None:
        fresh = not_in(keys, keys[usable & ~for_eval])
        return usable & for_eval & fresh, usable & for_eval & ~fresh
    held = np.zeros(len(store), dtype=np.bool_)
    held[usable] = hold_out(keys[store.firsts(usable)], data.val_set_size, seed, store.unit).repeat(store.each)
    return held, np.zeros(len(store), dtype=np.bool_)


def _dropped(store: RowStore, rows: Bool, kind: Kind, reason: str) -> Dropped:
    numbers = store.firsts(rows)
    return Dropped(kind, reason, len(numbers), tuple(store.place(int(number)) for number in numbers[:SHOWN_PER_KIND]))


def _nothing_left(store: RowStore, dropped: list[Dropped], data: DataSection) -> DataError:
    reasons = ", ".join(f"{drop.rows:,} {drop.reason}" for drop in dropped)
    longest, total = int(store.lengths.max()), len(store) // store.each
    found = f"0 usable {store.unit} (of {total:,}: {reasons}); the longest row has {longest:,} tokens"
    fix = f"write `max_seq_length: {longest}`"
    if store.each == 1 and longest > data.max_seq_length and data.overlong_rows != "split":
        fix += ", or `overlong_rows: split`, which cuts plain text into parts"
    return refuse("E-DATA-041", found, fix, "data.max_seq_length")


def _fingerprint(keys: list[str], data: DataSection, seed: int) -> str:
    """Hash of everything that decides which tokens are trained."""
    decided_by = [keys, [source.weight for source in data.datasets], data.max_seq_length, data.overlong_rows,
                  data.val_set_size, data.eval_split, seed, ROWS_VERSION]  # fmt: skip
    return hashlib.sha256(json.dumps(decided_by).encode()).hexdigest()
