"""The process that starts candidates. It runs none of their code and reads none of their bytes.

    Luthier ---- control: spawn n (with n's end of a connection), kill n ---->  server
       |    <--- n ended: status, CPU time, whether the server killed it -----     |
       |                                                                         fork
       `------ connection n: code, tests, values (see `child`) ----------------- candidate n

In the tier `full` the server is process 1 of namespaces of its own; the process that Luthier started stays outside,
waits for it, and takes it along when it is killed. Each candidate is process 1 of one more pid namespace, so whatever
it started ends with it. Luthier's end makes the control connection end, and with it the server and every candidate.

The interpreter of the server is fresh: no site-packages, no environment, no memory of Luthier's.

Not covered: judging (`trial`), the walls of a candidate (`confine`).
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from . import child, confine, linux, wire

_WATCH_SECONDS = 0.02
_BLOCK_BYTES = 512
_BUSY_SHARE = 0.05
# What candidates import most, loaded once: forks share it.
_WARM = (
    "array bisect cmath collections copy dataclasses datetime decimal enum fractions functools hashlib heapq itertools "
    "json math operator random re statistics string textwrap traceback types typing"
)


@dataclass
class _Candidate:
    number: int
    pid: int
    began: float
    deadline: float
    killed: bool = False


def main() -> None:
    """Entry of the process: its arguments are the walls, file 0 is the control connection."""
    walls = wire.Walls.from_arguments(sys.argv[2:])
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    try:
        if walls.tier == "full":
            _become_first_process(walls)
        server = _Server(control, walls)
    except OSError as error:
        text = str(error.strerror or error).encode()
        control.sendall(wire.HELLO.pack(False, len(text)) + text)
        return
    control.sendall(wire.HELLO.pack(True, 0))
    server.serve()


def _become_first_process(walls: wire.Walls) -> None:
    """Return in process 1 of new namespaces. The process that called waits for it and ends with it."""
    linux.enter_namespaces(walls.uid)
    first = os.fork()
    if first:
        # Only the first process may hold the control connection: it ends when that process ends.
        os.closerange(3, 256)
        os.waitpid(first, 0)
        os._exit(0)
    linux.die_with_parent()


class _Server:
    def __init__(self, control: socket.socket, walls: wire.Walls) -> None:
        self.control, self.walls, self.pid = control, walls, os.getpid()
        self.running: dict[int, _Candidate] = {}
        for name in _WARM.split():
            import_module(name)
        self.own_pids = -1
        if walls.tier == "full":
            self.own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        confine.prepare(walls)
        self.woken, wake = os.pipe()
        os.set_blocking(self.woken, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for name in [name for name in sys.modules if name.partition(".")[0] == __package__]:
            del sys.modules[name]
        gc.collect()
        gc.freeze()

    def serve(self) -> None:
        """Until the control connection ends; nothing that was started is left then."""
        try:
            while self._wait():
                self._reap()
                self._watch()
        finally:
            for candidate in self.running.values():
                self._kill(candidate)
                os.waitpid(candidate.pid, 0)
                self._clean(candidate)
            if self.walls.folder:
                with contextlib.suppress(OSError):
                    Path(self.walls.folder).rmdir()

    def _wait(self) -> bool:
        """Until something happens; False at the end of the control connection."""
        control = self.control.fileno()
        ready = select.select([control, self.woken], [], [], self._patience())[0]
        if self.woken in ready:
            os.read(self.woken, 4096)
        if control not in ready:
            return True
        request, files, _, _ = socket.recv_fds(self.control, wire.REQUEST.size, 1)
        if len(request) < wire.REQUEST.size:
            return False
        kind, number = wire.REQUEST.unpack(request)
        if kind == wire.SPAWN:
            self._spawn(number, files[0])
            os.close(files[0])
        elif number in self.running:
            self._kill(self.running[number])
        return True

    def _patience(self) -> float | None:
        deadlines = [candidate.deadline for candidate in self.running.values() if not candidate.killed]
        if not deadlines:
            return None
        left = max(0.0, min(deadlines) - time.monotonic())
        return min(left, _WATCH_SECONDS) if self.walls.tier == "no-namespaces" else left

    def _spawn(self, number: int, connection: int) -> None:
        if self.own_pids >= 0:
            linux.call("unshare", linux.NEWPID)
        pid = os.fork()
        if pid == 0:
            self._become_candidate(number, connection)
        if self.own_pids >= 0:
            linux.call("setns", self.own_pids, linux.NEWPID)
        now = time.monotonic()
        self.running[number] = _Candidate(number, pid, now, now + self.walls.seconds)

    def _become_candidate(self, number: int, connection: int) -> None:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            confine.only_connection(connection)
            confine.enter(self.walls, number)
            # 0 from inside a pid namespace; anything else: the server ended before this process was tied to it.
            if os.getppid() in (0, self.pid):
                child.run(confine.CONNECTION)
        except BaseException as error:
            os.write(confine.CONNECTION, child.refusal(error))
        finally:
            os._exit(1)

    def _reap(self) -> None:
        by_pid = {candidate.pid: candidate for candidate in self.running.values()}
        while by_pid:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            candidate = by_pid.pop(pid, None)
            if candidate is not None:
                del self.running[candidate.number]
                self._clean(candidate)
                cpu_ms = round(1000 * (used.ru_utime + used.ru_stime))
                self.control.sendall(wire.ENDED.pack(candidate.number, status, cpu_ms, candidate.killed))

    def _watch(self) -> None:
        """Kill what is past its time, or fills the disk where no tmpfs bounds it."""
        now = time.monotonic()
        for candidate in self.running.values():
            if not candidate.killed and (self._is_late(candidate, now) or self._fills_the_disk(candidate)):
                candidate.killed = True
                self._kill(candidate)

    def _is_late(self, candidate: _Candidate, now: float) -> bool:
        """Whether its time is up. Who computes, and had to wait for a core, is given the time that it has not used."""
        if now < candidate.deadline:
            return False
        used, last = _cpu_seconds(candidate.pid), candidate.began + wire.STARVED * self.walls.seconds
        left = self.walls.seconds - used
        if left <= 0 or now >= last or used < _BUSY_SHARE * (now - candidate.began):
            return True
        candidate.deadline = min(now + max(left, _WATCH_SECONDS), last)
        return False

    def _fills_the_disk(self, candidate: _Candidate) -> bool:
        if self.walls.tier != "no-namespaces":
            return False
        used = 0
        with contextlib.suppress(OSError), os.scandir(confine.folder_of(self.walls, candidate.number)) as entries:
            for count, entry in enumerate(entries, 1):
                used += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
                if count > confine.FILES or used > confine.DISK_MIB << 20:
                    return True
        return False

    def _kill(self, candidate: _Candidate) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(candidate.pid, signal.SIGKILL)

    def _clean(self, candidate: _Candidate) -> None:
        if self.walls.tier not in {"full", "no-namespaces"}:
            # Where a candidate can fork, what it left behind is still in its session's first group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(candidate.pid, signal.SIGKILL)
        if self.walls.folder:
            shutil.rmtree(confine.folder_of(self.walls, candidate.number), ignore_errors=True)


def _cpu_seconds(pid: int) -> float:
    """CPU time of another process, by the clock that Linux gives each (clock_getcpuclockid(3)); 0 where it has none."""
    try:
        return time.clock_gettime(~pid << 3 | 2) if sys.platform == "linux" else 0.0
    except OSError:
        return 0.0
