"""What strace wrote, as changes on a `crash.Disk`.

    1234 write(6</run/.inflight-x/a>, "...", 12) = 12        with -xx every byte of names and data is \\xNN

Descriptors need no bookkeeping: strace names the file behind each (`-y`), by its name of that moment. Only offsets do.
Not covered: writes through mapped memory and copies inside the kernel. That none is missed is checked by comparing the
disk that the changes lead to with the real one, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.torture.crash import Disk

CALLS = (
    "open,openat,creat,write,pwrite64,writev,pwritev,ftruncate,truncate,rename,renameat,renameat2,unlink,unlinkat,"
    "rmdir,mkdir,mkdirat,fsync,fdatasync,sync_file_range,lseek,link,linkat,symlink,symlinkat,sendfile,copy_file_range,"
    "fallocate"
)
OPTIONS = ["-xx", "-s", "100000000", "-e", f"trace={CALLS}"]
_CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<([^>]*)>)?")
_HALF = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>$")
_REST = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$")
_ARGUMENT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"|(?:\w+|-?\d+)<([^>]*)>|([^,\s][^,]*)')


@dataclass(frozen=True)
class Call:
    """A system call that succeeded: numbers and flags as text, paths made absolute, data as bytes."""

    name: str
    texts: list[str]
    strings: list[bytes]
    files: list[str]
    """Paths behind the descriptors among the arguments."""
    result: int
    opened: str


def calls(record: Path) -> Iterator[Call]:
    """The calls that succeeded, in order."""
    halves: dict[str, str] = {}
    for text in record.read_text(encoding="ascii").splitlines():
        line = text
        if half := _HALF.match(line):
            halves[half[1]] = half[2]
            continue
        if rest := _REST.match(line):
            line = f"{rest[1]} {halves.pop(rest[1])}{rest[2]}"
        if (match := _CALL.match(line)) and int(match[4]) >= 0:
            found = list(_ARGUMENT.finditer(match[3]))
            yield Call(
                match[2],
                [argument[3] for argument in found if argument[3] is not None],
                [_bytes(argument[1]) for argument in found if argument[1] is not None],
                [_text(argument[2]) for argument in found if argument[2] is not None],
                int(match[4]),
                _text(match[5] or ""),
            )


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _text(escaped: str) -> str:
    return _bytes(escaped).decode() if escaped.startswith("\\x") else escaped


class Replay:
    """Makes the recorded changes below a folder on a disk."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder, self._disk = folder, disk
        self._offsets: dict[str, int] = {}
        self._appending: set[str] = set()

    def make(self, call: Call) -> None:
        """One call."""
        if call.name in ("open", "openat", "creat"):
            self._opened(call)
        elif call.name.startswith("rename"):
            self._renamed(call)
        elif call.name in ("mkdir", "mkdirat", "unlink", "unlinkat", "rmdir"):
            if (path := self._named(call)) is None:
                return
            if call.name.startswith("mkdir"):
                self._disk.make(path, folder=True)
            else:
                self._disk.enter(path, None)
        elif call.files and (path := self._below(call.files[0])) is not None and not path.endswith(" (deleted)"):
            self._written(call, path)

    def _below(self, path: str) -> str | None:
        whole = Path(path)
        return str(whole.relative_to(self._folder)) if whole.is_relative_to(self._folder) else None

    def _named(self, call: Call, which: int = 0) -> str | None:
        """The path that a call names; None when it lies elsewhere."""
        name = call.strings[which].decode()
        bases = call.files if "at" in call.name else []
        return self._below(str(Path(bases[min(which, len(bases) - 1)]) / name) if bases else name)

    def _renamed(self, call: Call) -> None:
        old, new = self._named(call), self._named(call, 1)
        if old is None and new is None:
            return
        assert old is not None and new is not None, call
        self._disk.rename(old, new)
        if old in self._offsets:
            self._offsets[new] = self._offsets.pop(old)

    def _opened(self, call: Call) -> None:
        if (path := self._named(call)) is None:
            return
        flags = " ".join(call.texts)
        try:
            node = self._disk.node(path)
        except KeyError:
            assert "O_CREAT" in flags, call
            node = self._disk.make(path, folder=False)
        if "O_TRUNC" in flags and self._disk.now.files[node]:
            self._disk.change(node, length=0)
        if "O_WRONLY" in flags or "O_RDWR" in flags:
            self._offsets[path] = 0
            (self._appending.add if "O_APPEND" in flags else self._appending.discard)(path)

    def _written(self, call: Call, path: str) -> None:
        """What a call did to an open file."""
        node = self._disk.node(path)
        if call.name == "write":
            size = len(self._disk.now.files[node])
            appended = path in self._appending or path not in self._offsets  # opened before the recording: the log
            at = size if appended else self._offsets[path]
            self._disk.change(node, data=call.strings[0][: call.result], offset=at)
            self._offsets[path] = at + call.result
        elif call.name == "pwrite64":
            self._disk.change(node, data=call.strings[0][: call.result], offset=int(call.texts[-1]))
        elif call.name == "ftruncate":
            self._disk.change(node, length=int(call.texts[-1]))
        elif call.name in ("fsync", "fdatasync"):
            self._disk.fsync(node)
        elif call.name != "lseek":
            raise AssertionError(f"{call.name} is not modelled")
        elif path in self._offsets:
            self._offsets[path] = call.result
