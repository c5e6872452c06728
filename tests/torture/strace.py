"""A fork of this process with strace on it: to record what it does to the disk, or to let its k-th system call fail."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.torture.runs import in_fork

PR_SET_PTRACER, ANY = 0x59616D61, -1


def why_not() -> str:
    """Why it cannot be done here."""
    return "" if shutil.which("strace") else "strace is not installed (apt install strace)"


def traced(work: Callable[[], None], log: Path, record: Path, options: Sequence[str]) -> int:
    """Do `work` in a fork while strace writes to `record`; returns its exit code, or minus the signal."""
    gate_read, gate_write = os.pipe()
    ready_read, ready_write = os.pipe()

    def behind_the_gate() -> None:
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY, 0, 0, 0)  # where only parents may trace
        os.close(gate_write)
        os.write(ready_write, b".")
        os.read(gate_read, 1)
        work()

    child = os.fork()
    if child == 0:
        in_fork(behind_the_gate, log)
    os.close(gate_read)
    os.close(ready_write)
    os.read(ready_read, 1)
    os.close(ready_read)
    command = ["strace", "-f", "-y", "-p", str(child), "-o", str(record), *options]
    try:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            assert "attached" in said, said
            os.close(gate_write)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            tracer.stderr.read()
    except BaseException:
        os.kill(child, 9)
        raise
    return code
