"""How well this machine can hold a program, found out by trying and never assumed.

    Linux:  full -> no-namespaces        macOS:  macos        elsewhere: nothing

Docker's default profile and Ubuntu 24.04 refuse user namespaces; older kernels lack Landlock. A tier counts when its
server starts and its canaries are stopped (see `canaries`). As root, candidates get a private uid, because limits on
processes do not bind root.

Not covered: Windows; a container or virtual machine around the sandbox, which this does not need and does not replace.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from luthier.evaluate.sandbox import landlock, macos, seccomp
from luthier.evaluate.sandbox.wire import Walls

UNSAFE = "unsafe"
_THREADS = 64
# systemd hands these out to services that live only for a while: no person and no package owns them.
_PRIVATE_UIDS = range(61184, 65520 - 64)


def candidates() -> tuple[str, ...]:
    """The tiers that this system may have, the strongest first."""
    return {"linux": ("full", "no-namespaces"), "darwin": ("macos",)}.get(sys.platform, ())


def missing(tier: str) -> str:
    """What a tier lacks here that can be told without trying; empty: nothing."""
    if tier in {"full", "no-namespaces"} and not seccomp.supported():
        return f"its list of system calls has no column for {os.uname().machine}"
    if tier == "no-namespaces" and not landlock.version():
        return "Landlock is missing: it needs Linux 5.13 or newer with landlock among its security modules"
    return ""


def walls(tier: str, seconds: float, memory_mib: int, folder: str) -> Walls:
    """The settings of a tier for this user."""
    held_by_kernel = tier in {"full", "no-namespaces"}
    uid = secrets.choice(_PRIVATE_UIDS) if held_by_kernel and os.geteuid() == 0 else None
    # In its own user namespace a candidate is counted alone, and so is a private uid; else with all that the user runs.
    others = 0 if tier == "full" or uid is not None else _tasks_of_this_user()
    processes = 0 if tier == "macos" else _THREADS + others
    return Walls(tier, seconds, memory_mib, uid, processes, folder)


def wrapper(tier: str, folder: str) -> tuple[str, ...]:
    """What starts the server, before the interpreter."""
    return macos.wrapper(folder) if tier == "macos" else ()


def _tasks_of_this_user() -> int:
    """Threads of this user, for the limit counts them all; 1000 where /proc does not tell."""
    count, mine = 0, os.geteuid()
    try:
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and process.stat().st_uid == mine:
                count += len(list(process.joinpath("task").iterdir()))
    except OSError:
        return 1000
    return count
