"""The records of a TFRecord file that grows: `length (8 bytes) | its CRC | data | CRC of the data`.

A record of which the end is not there yet is left for the next look. The length's CRC is checked, so that junk is
noticed; the CRC of the data is not (in Python it takes longer than everything else), protobuf finds most damage.
Source: TensorFlow `core/lib/io/record_writer.h`.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

CHUNK = 2**20
LARGEST = 16 * 2**20
_HEADER = struct.Struct("<QI")
_FOOTER = 4


class RecordFile:
    """One file of records.

    Attributes:
        damaged: At a byte where no record starts; nothing more is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = False
        self._offset = 0

    def read(self, budget: int) -> Iterator[bytes]:
        """The records that are new, until about `budget` bytes are read; larger ones than `LARGEST` are left out.

        Raises:
            OSError: The file cannot be read.
        """
        size = self.path.stat().st_size
        if self.damaged or size <= self._offset:
            return
        file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(0, "not a file")
            end = self._offset + budget
            while self._offset < end and not self.damaged:
                start = self._offset
                yield from self._records(os.pread(file, CHUNK, start), size)
                if self._offset == start:
                    # Nothing, or a record that is longer than a chunk.
                    yield from self._records(
                        os.pread(file, self._length(os.pread(file, _HEADER.size, start)), start), size
                    )
                if self._offset == start:
                    return
        finally:
            os.close(file)

    def left(self) -> int:
        """Bytes that are there and were not read.

        Raises:
            OSError: The file is not there any more.
        """
        return 0 if self.damaged else max(0, self.path.stat().st_size - self._offset)

    def _records(self, data: bytes, size: int) -> Iterator[bytes]:
        position = 0
        while length := self._length(data[position : position + _HEADER.size]):
            if length > LARGEST and self._offset + length <= size:
                self._offset += length
                return
            if position + length > len(data):
                return
            self._offset += length
            yield data[position + _HEADER.size : position + length - _FOOTER]
            position += length

    def _length(self, header: bytes) -> int:
        """Bytes of the whole record that starts with `header`; 0 where the header is not whole or none."""
        if len(header) < _HEADER.size:
            return 0
        length, crc = _HEADER.unpack(header)
        if crc != masked_crc32c(header[:8]):
            self.damaged = True
            return 0
        return _HEADER.size + int(length) + _FOOTER


def is_record_file(first_bytes: bytes) -> bool:
    """Whether a file that starts so is one of records."""
    return len(first_bytes) >= _HEADER.size and _HEADER.unpack(first_bytes[: _HEADER.size])[1] == masked_crc32c(
        first_bytes[:8]
    )


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (reflected polynomial 0x82F63B78) as TFRecord stores it: rotated right by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _table()
