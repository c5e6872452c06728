"""Datasets of the Hugging Face hub, through `datasets`: memory-mapped Arrow, read a batch at a time.

Its errors are translated here: what is missing, and how to get it. Not covered: streaming from the hub (the rows are
downloaded once) and dataset scripts (code from strangers; `datasets` no longer runs them).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from luthier.config.schema import DatasetSource
from luthier.data.problems import Problems, printable, refuse
from luthier.errors import DataError, Problem
from luthier.machine.hub import out_of_reach

_BATCH_ROWS = 1000


class HubSource:
    """One split of a dataset that `datasets` has loaded."""

    def __init__(self, dataset: Any, name: str, split: str) -> None:
        self._dataset = _undecoded(dataset)
        self.name = name
        self.split = split
        self.fingerprint = f"{name}@{split}#{dataset._fingerprint}"
        self.contents = {f"{name}@{split}": str(dataset._fingerprint)}

    def rows(self, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
        """Stream the rows; a place is `owner/name:split:row`, rows numbered from 0 as `datasets` does.

        Raises:
            DataError: `datasets` cannot read a row.
        """
        del problems  # a loaded dataset has no broken rows
        number = 0
        batches = self._dataset.iter(batch_size=_BATCH_ROWS)
        while True:
            try:
                batch = next(batches, None)
            except Exception as error:  # `datasets` and what it decodes with raise anything
                found = f"`datasets` cannot read this row, or one soon after: {printable(str(error))[:300]}"
                fix = "save the columns that are needed as .jsonl, then path: that file"
                raise refuse("E-DATA-009", found, fix, f"{self.name}:{self.split}:{number}") from error
            if batch is None:
                return
            for values in zip(*batch.values(), strict=True):
                yield f"{self.name}:{self.split}:{number}", dict(zip(batch, values, strict=True))
                number += 1


def _undecoded(dataset: Any) -> Any:
    """The same without decoding pictures, sound and films, of which nothing is read."""
    from datasets import Audio, Image, Pdf, Video

    for name, feature in dataset.features.items():
        if isinstance(feature, (Audio, Image, Pdf, Video)):
            dataset = dataset.cast_column(name, replace(feature, decode=False))
    return dataset


def open_hub(source: DatasetSource, split: str) -> HubSource:
    """Load a split from the local cache or the hub.

    Raises:
        DataError: Not there, gated, unreachable, or no such configuration or split.
    """
    out_of_reach()
    import datasets

    was_shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        dataset = datasets.load_dataset(source.path, source.name, split=split, revision=source.revision)
    except Exception as error:  # `datasets` raises a dozen types from five libraries; all mean: no rows
        raise DataError(_explain(error, source, split)) from error
    finally:
        if was_shown:
            datasets.enable_progress_bars()
    return HubSource(dataset, source.path, split)


def _explain(error: Exception, source: DatasetSource, split: str) -> Problem:
    """The problem behind an exception of `datasets`, told by its words and by the types of its causes."""
    said = printable(str(error))
    words = said.replace(source.path, "").lower()
    types = " ".join(type(cause).__name__ for cause in _causes(error)).lower()
    where = source.path
    download = f"hf download {source.path} --repo-type dataset --local-dir data, then path: data; or any local .jsonl"
    if "gated" in words:
        fix = f"accept the terms on https://huggingface.co/datasets/{source.path}, then: hf auth login (or HF_TOKEN)"
        return Problem("E-DATA-003", "the dataset is gated or private, and this machine is not let in", fix, where)
    if re.search(r"builderconfig|config name|find cache for|unknown split|bad split|revision .*doesn't exist", words):
        parts = {"name": source.name, "split": split, "revision": source.revision}
        wanted = ", ".join(f"{key}: {value}" for key, value in parts.items() if value)
        return Problem("E-DATA-004", f"no such part ({wanted}): {said[:300]}", "write one that exists", where)
    if re.search(r"offline|connect|timeout|localentry", types) or "couldn't reach" in words:
        found = "not in the local cache, and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set)"
        return Problem("E-DATA-002", found, download, where)
    if "doesn't exist" in words or "couldn't find" in words:
        fix = "check the spelling on huggingface.co/datasets; a private dataset needs HF_TOKEN; or give a local file"
        return Problem("E-DATA-001", "no such dataset on the hub, and no such folder here", fix, where)
    return Problem("E-DATA-009", f"`datasets` cannot load it: {said[:300]}", download, where)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
