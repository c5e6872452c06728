"""Local files and folders of them: finding, checking, hashing, slicing.

Not covered: reading one file's rows (`luthier.data.sources.readers`).
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from luthier.data.problems import Problems, refuse
from luthier.data.sources.first_bytes import check_bytes
from luthier.data.sources.folders import files_of_split
from luthier.data.sources.readers import READERS
from luthier.data.sources.slices import parse_slice

SUFFIXES = tuple(READERS)
_AS_CSV = "save it as CSV UTF-8, separated by commas (.csv)"
_CONVERTED = {
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".tsv"), _AS_CSV),
    ".txt": 'write a .jsonl with one row {"text": "..."} for each text, and `format: text`',
}
_PACKED = {".gz", ".bz2", ".xz", ".zst", ".zip"}


def nearest(path: Path) -> str:
    """The name in the same folder that looks most like this one; empty where there is none."""
    try:
        entries = sorted(path.parent.iterdir(), key=lambda entry: (entry.suffix != path.suffix, entry.name))
    except OSError:
        return ""
    by_stem = {entry.stem: entry for entry in reversed(entries)}  # the suffix alone makes nothing similar
    found = difflib.get_close_matches(path.stem, by_stem, n=1, cutoff=0.6)
    return str(by_stem[found[0]]) if found else ""


class LocalSource:
    """One file, or the files of one split of a folder in the order of their names."""

    def __init__(self, path: Path, name: str, split: str) -> None:
        self.name = name
        self.split = split
        self._slice = parse_slice(split, name)
        self._files = list(_find(path, name, self._slice.split))
        for file, shown in self._files:
            check_bytes(file, shown)
        self._seen = self._stat()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of names, bytes and slice (the names, because rows carry them as their places)."""
        digest = hashlib.sha256(self.split.encode())
        for shown, content in self.contents.items():
            digest.update(f"\0{shown}\0".encode() + bytes.fromhex(content))
        return digest.hexdigest()

    @cached_property
    def contents(self) -> dict[str, str]:
        """SHA-256 of each file's bytes."""
        found = {}
        for file, shown in self._files:
            try:
                with file.open("rb") as stream:
                    found[shown] = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise _unreadable(error, shown) from error
        return found

    def rows(self, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
        """Stream the rows of the slice.

        Raises:
            DataError: The file cannot be read, or changed while it was.
        """
        if self._slice.needs_total:
            start, stop = self._slice.bounds(sum(1 for _ in self._all(Problems())))
        else:
            start, stop = int(self._slice.start or 0), int(self._slice.stop) if self._slice.stop else None  # type: ignore[assignment]
        yield from islice(self._all(problems), start, stop)
        if self._stat() != self._seen:
            raise refuse("E-DATA-015", "the file was written to while it was read", "wait, then start again", self.name)

    def _all(self, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
        for file, shown in self._files:
            try:
                yield from READERS[file.suffix.lower()](file, shown, problems)
            except OSError as error:
                raise _unreadable(error, shown) from error

    def _stat(self) -> list[tuple[int, int]]:
        try:
            return [(stat.st_size, stat.st_mtime_ns) for stat in (file.stat() for file, _ in self._files)]
        except OSError as error:
            raise _unreadable(error, self.name) from error


def _find(path: Path, name: str, split: str) -> Iterator[tuple[Path, str]]:
    """The files behind a path, each with the name that places carry."""
    if not path.exists():
        raise refuse("E-DATA-001", "the link points to nothing", "correct the link, or give another path", name)
    if path.is_dir():
        try:
            yield from files_of_split(path, name, split)
        except OSError as error:
            raise _unreadable(error, name) from error
        return
    if split != "train":
        fix = "write `split: train` (a slice: `train[:90%]`), or set path to the file that holds those rows"
        raise refuse("E-DATA-005", f'a local file has only the split train, not "{split}"', fix, name)
    if not path.is_file():
        raise refuse("E-DATA-006", "this is a device or a pipe, not a file", "write its content to a file first", name)
    suffix = path.suffix.lower()
    if suffix in _PACKED:
        raise refuse("E-DATA-006", f"compressed file ({suffix})", f"unpack it first: {_unpack(suffix, name)}", name)
    if suffix not in READERS:
        fix = _CONVERTED.get(suffix, f"rename it to what it is: {', '.join(SUFFIXES)}")
        raise refuse("E-DATA-006", f'cannot tell the format from the suffix "{suffix}"', fix, name)
    yield path, name


def _unpack(suffix: str, name: str) -> str:
    command = {".gz": "gunzip -k", ".bz2": "bunzip2 -k", ".xz": "unxz -k", ".zst": "unzstd", ".zip": "unzip"}[suffix]
    return f"{command} {name}"


def _unreadable(error: OSError, name: str) -> Exception:
    return refuse("E-DATA-009", f"cannot read: {error.strerror or error}", "check that the file can be read", name)
