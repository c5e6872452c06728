"""Eight attempts to get out, made at every start: a tier whose walls do not stop them all is not used.

    files        read a file of this user             signal     reach Luthier's own process
    environment  see a variable of Luthier            write      make a file outside
    tcp          connect to a port of this machine    processes  start many threads, or one process
    udp          send a datagram to one               ptrace     look into Luthier's own process

Each runs as a program of its own, behind the same walls as a candidate, and must say that it was stopped. What can be
seen from outside is looked at from outside as well.

Not covered: walls that fail for some programs only; the tests hold many more attempts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from luthier.evaluate.sandbox.types import Program, Verdict

_TESTS = ("assert stopped() == 'stopped'",)
HARMLESS = Program("def stopped(): return 'stopped'", _TESTS)
_FRAME = """
import os, socket
def stopped():
    try:
        return attempt() or "stopped"
    except OSError:
        return "stopped"
"""
_ATTEMPTS = {
    "files": """
def attempt():
    return open({secret!r}).read()
""",
    "environment": """
def attempt():
    if set(os.environ) & set({names!r}): return "inherited"
    return open("/proc/{pid}/environ").read()
""",
    "tcp": """
def attempt():
    socket.create_connection(("127.0.0.1", {tcp}), timeout=1)
    return "connected"
""",
    "udp": """
def attempt():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"out", ("127.0.0.1", {udp}))
    return "sent"
""",
    "signal": """
def attempt():
    os.kill({pid}, 0)
    return "reached"
""",
    "write": """
def attempt():
    open({target!r}, "w").write("out")
    return "written"
""",
    "processes": """
import threading
def attempt():
    threading.stack_size(1 << 16)
    done = threading.Event()
    try:
        for _ in range({processes}):
            threading.Thread(target=done.wait, daemon=True).start()
        if {processes}: return "all started"
    except (RuntimeError, MemoryError):
        pass
    finally:
        done.set()
    if os.fork() == 0: os._exit(0)
    return "forked"
""",
    "ptrace": """
import ctypes
def attempt():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(0x4206, {pid}, 0, 0) == 0: return "seized"
    for name in ("mem", "maps", "fd/0"):
        try:
            os.close(os.open("/proc/{pid}/" + name, os.O_RDONLY))
            return name
        except OSError:
            pass
    return ""
""",
}
NAMES = tuple(_ATTEMPTS)
# Beyond the limit: other processes of the same user come and go meanwhile, and they are counted too.
_MANY = 300


@dataclass(frozen=True)
class Outcome:
    """What the canaries told.

    Attributes:
        stopped: By name.
        reason: Why the tier does not count; empty: it does.
    """

    stopped: dict[str, bool]
    reason: str


def fly(run: Callable[[list[Program]], list[Verdict]], processes: int, known: Collection[str]) -> Outcome:
    """Run them all, and one harmless program that must pass.

    Args:
        run: Runs programs in the tier that is tried.
        processes: The limit that they are under; 0 where threads are not among what it limits.
        known: Names of variables that candidates may see.
    """
    with (
        tempfile.TemporaryDirectory(prefix="luthier-canary-") as folder,
        _listener(socket.SOCK_STREAM) as tcp,
        _listener(socket.SOCK_DGRAM) as udp,
    ):
        secret, target = Path(folder, "secret"), Path(folder, "target")
        secret.write_text("secret")
        # Open to everybody: it is the walls that must stop a candidate, not the rights of another user's files.
        Path(folder).chmod(0o777)
        secret.chmod(0o644)
        facts = {
            "secret": str(secret),
            "target": str(target),
            "names": sorted(set(os.environ) - set(known)),
            "pid": os.getpid(),
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "processes": processes + _MANY if processes else 0,
        }
        attempts = [Program(_FRAME + text.format(**facts), _TESTS) for text in _ATTEMPTS.values()]
        harmless, *verdicts = run([HARMLESS, *attempts])
        stopped = {name: verdict.passed for name, verdict in zip(NAMES, verdicts, strict=True)}
        stopped["tcp"] &= not _heard(tcp)
        stopped["udp"] &= not _heard(udp)
        stopped["write"] &= not target.exists()
    if not harmless.passed:
        return Outcome(stopped, f"a harmless program did not pass: {harmless.detail}")
    loose = [name for name, held in stopped.items() if not held]
    return Outcome(stopped, f"canaries got out: {', '.join(loose)}" if loose else "")


def _listener(kind: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, kind)
    listener.setblocking(False)
    # Without a loopback device there is nothing to listen on, and nothing to reach.
    with contextlib.suppress(OSError):
        listener.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            listener.listen()
    return listener


def _heard(listener: socket.socket) -> bool:
    try:
        if listener.type == socket.SOCK_STREAM:
            listener.accept()[0].close()
        else:
            listener.recv(16)
    except OSError:
        return False
    return True
