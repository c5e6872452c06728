"""What the first bytes of a file say: compressed, Parquet, UTF-16; and the words for text that is not UTF-8."""

from __future__ import annotations

import shlex
from pathlib import Path

from luthier.data.problems import refuse
from luthier.errors import DataError

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip", "unpack it: mv {name} {name}.gz && gunzip {name}.gz"),
    (b"PAR1", "Parquet", "rename it to end in .parquet"),
    (b"ARROW1", "Arrow IPC", "write the rows as .parquet or .jsonl"),
    (b"PK\x03\x04", "zip", "unpack it with unzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unpack it with unzstd"),
    (b"\xfd7zXZ\x00", "xz", "unpack it with unxz"),
    (b"BZh", "bzip2", "unpack it with bunzip2"),
    (b"version https://git-lfs", "a git-lfs pointer, not the data", "run: git lfs pull"),
)
_WIDE = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def check_bytes(path: Path, shown: str) -> None:
    """Compare a file's first bytes with its suffix.

    Raises:
        DataError: Empty, not readable, another format than the suffix says, or not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        found = f"cannot read: {error.strerror or error}"
        raise refuse("E-DATA-009", found, "check that the file can be read", shown) from error
    if not head:
        raise refuse("E-DATA-008", "the file is empty", "give a file with rows", shown)
    for magic, what, fix in _MAGIC:
        if head.startswith(magic) and not (what == "Parquet" and path.suffix.lower() == ".parquet"):
            raise refuse("E-DATA-006", f"the bytes say that this is {what}", fix.format(name=shlex.quote(shown)), shown)
    if path.suffix.lower() == ".parquet":
        if not head.startswith(b"PAR1"):
            raise refuse("E-DATA-006", "this is not a Parquet file", "rename it to what it is", shown)
        return
    for mark, encoding in _WIDE:
        if head.startswith(mark):
            raise not_utf8(shown, encoding, f"the file is {encoding}")
    if head[1::2].count(0) > len(head) // 4 or head[0::2].count(0) > len(head) // 4:
        raise not_utf8(shown, "UTF-16LE" if head[1::2].count(0) else "UTF-16BE", "the file looks like UTF-16")


def not_utf8(where: str, encoding: str, found: str) -> DataError:
    """The error for a whole file in another encoding."""
    return refuse("E-DATA-007", found, convert_command(where, encoding), where)


def convert_command(name: str, encoding: str) -> str:
    """How to make a file UTF-8."""
    file = shlex.quote(name)
    return f"convert it: iconv -f {encoding} -t UTF-8 {file} > converted && mv converted {file}"


def decode(raw: bytes, first_line: bool = False) -> str:
    """UTF-8 text; the byte order mark is taken off the first line.

    Raises:
        UnicodeDecodeError: Not UTF-8.
    """
    return raw.decode("utf-8-sig" if first_line else "utf-8")


def describe_decode_error(error: UnicodeDecodeError) -> str:
    """What stands where UTF-8 breaks, with the text that Windows-1252 (the usual case) would make of it."""
    start = max(0, error.start - 20)
    guess = error.object[start : error.start + 20].decode("cp1252", errors="replace")
    return f'not UTF-8 at byte {error.start}; read as Windows-1252 it says "{guess}"'
