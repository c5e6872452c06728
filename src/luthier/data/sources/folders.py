"""Which files of a folder are read: those of the split that is asked for, told by their names as `datasets` tells it.

    train-00000-of-00002.parquet     the split before the number of the shard
    test.jsonl, my_dev.csv, eval/    a word for a split in the name of the file or of its folder

A folder that holds no rows itself is read one floor down, as sets of the hub are laid out: in `data` and in folders
called after splits. Not covered: folders with other names (configurations): they are named, and none is read.
"""

from __future__ import annotations

import re
from pathlib import Path

from luthier.data.problems import refuse
from luthier.data.sources.readers import READERS

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}.*")
_NO_ROWS = frozenset(("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"))


def files_of_split(folder: Path, name: str, split: str) -> list[tuple[Path, str]]:
    """The files of one split in the order of their names, each with the name that places carry.

    Args:
        folder: Exists.
        name: What the user calls it.
        split: Without a slice; `train` also means files whose names say nothing.

    Raises:
        DataError: No rows there, no such split, or names that leave open what belongs to it.
        OSError: A folder cannot be listed.
    """
    files = _row_files(folder) or _one_floor_down(folder, name)
    if not files:
        fix = f"put {', '.join(READERS)} files into it, or give the path of a file"
        raise refuse("E-DATA-008", "no file with rows in this folder", fix, name)
    shown = {file: str(Path(name) / file.relative_to(folder)) for file in files}
    splits = {file: _split(file.relative_to(folder)) for file in files}
    if len(set(splits.values())) == 1 and next(iter(splits.values())) not in _WORDS.values():
        splits = dict.fromkeys(files, "train")
    named = sorted(set(splits.values()) - {""})
    unnamed = [file for file in files if not splits[file]]
    if unnamed and named != ["train"]:
        found = f"files of the split {' and '.join(named)} beside {unnamed[0].name}, whose name says no split"
        raise refuse("E-DATA-005", found, f"name the file: `path: {shown[unnamed[0]]}`", name)
    wanted = _WORDS.get(split, split)
    chosen = [(file, shown[file]) for file in files if (splits[file] or "train") == wanted]
    if not chosen:
        found = f'no "{split}" among the splits of this folder ({", ".join(named or ["train"])})'
        raise refuse("E-DATA-005", found, f"write `split: {(named or ['train'])[0]}`, or the path of a file", name)
    return chosen


def _row_files(folder: Path) -> list[Path]:
    files = (file for file in folder.iterdir() if file.suffix.lower() in READERS and file.name not in _NO_ROWS)
    return sorted(file for file in files if file.is_file())


def _one_floor_down(folder: Path, name: str) -> list[Path]:
    """The files of the folders in it that are called `data` or after splits; others are named."""
    below = {
        inner: files
        for inner in sorted(folder.iterdir())
        if inner.is_dir() and not inner.name.startswith(".") and (files := _row_files(inner))
    }
    if not all(inner.name == "data" or _split(Path(inner.name)) for inner in below):
        places = [str(Path(name) / inner.name) for inner in below]
        found = f"no file with rows in this folder, but in {', '.join(places[:5])}"
        raise refuse("E-DATA-008", found, f"write `path: {places[0]}`", name)
    return [file for files in below.values() for file in files]


def _split(path: Path) -> str:
    """The split that a path names; empty where it names none."""
    if shard := _SHARD.fullmatch(path.name):
        return _WORDS.get(shard[1], shard[1])
    for part in (path.stem, *(parent.name for parent in path.parents)):
        for word in re.split(r"[-._ 0-9]+", part.lower()):
            if word in _WORDS:
                return _WORDS[word]
    return ""
