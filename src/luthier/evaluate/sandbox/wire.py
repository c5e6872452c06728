"""What crosses the two connections of the sandbox, and nothing else does.

    control      Luthier -> server   REQUEST  SPAWN or KILL, number of the candidate (SPAWN brings one open file along)
                 server -> Luthier   HELLO    do the walls stand, length of the reason that follows
                                     ENDED    number, status as of wait(2), CPU milliseconds, killed by the server
    connection   judge -> candidate  FRAME    CODE entry point NUL text · VALUE nonce, expression ·
                                              RUN nonce, statements
                 candidate -> judge  FRAME    RAN [nonce] · VALUE nonce, bytes (see `values`) · OTHER nonce, text ·
                                              ERROR class NUL line NUL message · SYNTAX the same · WALLS text

A nonce is 16 random bytes, new for each test: who answers must have been asked. A FRAME is its letter, the length of
its payload and the payload. All numbers are little endian.

Not covered: the arguments of the server's command line, which are the fields of `Walls`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

REQUEST, SPAWN, KILL = struct.Struct("<cI"), b"S", b"K"
HELLO = struct.Struct("<?I")
ENDED = struct.Struct("<IiI?")
FRAME = struct.Struct("<cI")
CODE, VALUE, RUN = b"C", b"V", b"R"
RAN, OTHER, ERROR, SYNTAX, WALLS = b"A", b"O", b"E", b"S", b"W"
NONCE_BYTES = 16
STARVED = 8
"""How many times its seconds a candidate may take at most, on a machine that is too busy to let it run."""


@dataclass(frozen=True)
class Walls:
    """What every candidate of one server gets.

    Attributes:
        tier: One of the tiers of `confine`.
        seconds: Of CPU time; and of wall time, unless the candidate computes and the machine lets it wait.
        memory_mib: Address space of the process.
        uid: The first of `confine.UIDS` private uids of candidates when root starts them, else None.
        processes: The most processes and threads that the candidate's uid may have.
        folder: Where each candidate gets a folder of its own; empty in `full`, which needs none.
    """

    tier: str
    seconds: float
    memory_mib: int
    uid: int | None
    processes: int
    folder: str

    def to_arguments(self) -> list[str]:
        """The fields as words of a command line."""
        uid = "" if self.uid is None else str(self.uid)
        return [self.tier, str(self.seconds), str(self.memory_mib), uid, str(self.processes), self.folder]

    @classmethod
    def from_arguments(cls, words: list[str]) -> Walls:
        """The reverse of `to_arguments`."""
        tier, seconds, memory_mib, uid, processes, folder = words
        return cls(tier, float(seconds), int(memory_mib), int(uid) if uid else None, int(processes), folder)
