"""The walls that a fresh process puts around itself before it runs a candidate, one tier each.

    tier            files                      network and calls      processes        files written
    full            own root, own tmpfs        seccomp, empty net     own pid space    32 MiB tmpfs
    no-namespaces   Landlock                   seccomp                own uid as root  1 MiB each, 32 MiB, never removed
    macos           sandbox-exec               sandbox-exec           rlimit           32 MiB each
    unsafe          none                       none                   own session      32 MiB each

Every tier adds rlimits, a session of its own, an empty stdin, a discarded stdout and no other open file. In the first
two a candidate is one process with threads: it cannot fork and it cannot start a program.

Not covered: in `no-namespaces`, whether a file of a guessed name exists and how large it is (Landlock sees no stat);
programs that remove files, as `tempfile` does, fail there, because a removed file that is still open cannot be counted;
programs of one ordinary user share one count of threads there. Memory bandwidth and caches; bugs of the kernel.
"""

from __future__ import annotations

import functools
import math
import os
import platform
import resource
import sys
from pathlib import Path

from . import landlock, linux, seccomp
from .wire import Walls

CONNECTION = 3
DISK_MIB, FILES, UIDS = 32, 1024, 64
_SMALL_FILE_MIB, _OPEN_FILES = 1, 64
_DEVICES = ["/dev/null", "/dev/zero", "/dev/urandom"]
_SYSTEM = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"]
_PACKAGES = "site-packages", "dist-packages"
_WRITE = landlock.READ | landlock.WRITE_FILE | landlock.MAKE_REG | landlock.TRUNCATE
_MANAGE = landlock.REMOVE_DIR | landlock.REMOVE_FILE | landlock.MAKE_DIR | landlock.MAKE_SYM | landlock.REFER
_DEVICE = landlock.READ_FILE | landlock.WRITE_FILE


def prepare(walls: Walls) -> None:
    """What all candidates of a server share, done once, by the server.

    Raises:
        OSError: A wall does not stand here.
    """
    if walls.tier in {"full", "no-namespaces"}:
        seccomp.filter_for(platform.machine(), 1, own_mounts=walls.tier == "full")
    if walls.tier == "full":
        linux.build_root(_readable(), _packages(), _DEVICES)
    elif walls.tier == "no-namespaces":
        # The long list of what may be read binds the server and is inherited; a candidate adds the short one.
        linux.no_new_privileges()
        grants = [(walls.folder, _WRITE | _MANAGE), *((device, _DEVICE) for device in _DEVICES), *_reading()]
        grants.append((str(Path(walls.folder).parent), landlock.REMOVE_DIR))  # the folder itself, at the server's end
        landlock.restrict(landlock.version(), grants)


def enter(walls: Walls, number: int) -> None:
    """Put the walls up around this process, for good. The connection to the judge is file `CONNECTION`.

    Args:
        walls: Of this server.
        number: Of this candidate; names its folder.

    Raises:
        OSError: A wall does not stand; the candidate must not run.
    """
    if walls.tier == "full":
        _enter_full(walls)
    elif walls.tier == "no-namespaces":
        _enter_no_namespaces(walls, number)
    else:
        if sys.platform == "linux":
            linux.die_with_parent()
        os.chdir(_own_folder(walls, number))
        _limit(walls, DISK_MIB)


def folder_of(walls: Walls, number: int) -> Path:
    """The folder of a candidate, where its tier gives it one."""
    return Path(walls.folder, str(number))


def only_connection(connection: int) -> None:
    """Close every file but the connection, which becomes `CONNECTION`; nothing to read, output goes nowhere."""
    nowhere = os.open("/dev/null", os.O_RDWR)
    os.dup2(connection, CONNECTION)
    for standard in range(CONNECTION):
        os.dup2(nowhere, standard)
    os.closerange(CONNECTION + 1, 1 << 16)


def _enter_full(walls: Walls) -> None:
    linux.call("unshare", linux.NEWNS | linux.NEWIPC)
    linux.mount_tmpfs("/tmp", mib=DISK_MIB, files=FILES, uid=linux.INSIDE_UID)
    os.chdir("/tmp")
    if walls.uid is not None:
        linux.become(linux.INSIDE_UID, keep_capabilities=True)
    # One more user namespace, whose count of threads no other candidate shares.
    linux.call("unshare", linux.NEWUSER)
    _give_up_rights(walls, DISK_MIB, None)
    abi = landlock.version()
    if abi:
        landlock.restrict(abi, [("/", landlock.READ), ("/tmp", _WRITE | _MANAGE), *((d, _DEVICE) for d in _DEVICES)])
    seccomp.install(seccomp.filter_for(platform.machine(), os.getpid(), own_mounts=True))


def _enter_no_namespaces(walls: Walls, number: int) -> None:
    folder = _own_folder(walls, number)
    os.chdir(folder)
    kept = None
    if walls.uid is not None:
        uid = walls.uid + number % UIDS
        os.chown(folder, uid, uid)
        # A Python below a closed home such as /root: the private uid may look there, Landlock says at what.
        kept = None if _open_to_all(os.__file__) else linux.CAP_DAC_READ_SEARCH
        linux.become(uid, keep_capabilities=kept is not None)
    _give_up_rights(walls, _SMALL_FILE_MIB, kept)
    devices = [(device, _DEVICE) for device in _DEVICES]
    reading = [(path, landlock.READ) for path in _readable()]
    landlock.restrict(landlock.version(), [(folder, _WRITE), *devices, *reading])
    seccomp.install(seccomp.filter_for(platform.machine(), os.getpid(), own_mounts=False))


def _give_up_rights(walls: Walls, file_mib: int, capability: int | None) -> None:
    linux.die_with_parent()
    linux.no_new_privileges()
    linux.keep_only(capability)
    _limit(walls, file_mib)


def _limit(walls: Walls, file_mib: int) -> None:
    seconds = math.ceil(walls.seconds)
    limits = {
        "RLIMIT_CPU": (seconds, seconds + 1),
        "RLIMIT_AS": (walls.memory_mib << 20,) * 2,
        "RLIMIT_FSIZE": (file_mib << 20,) * 2,
        "RLIMIT_NOFILE": (_OPEN_FILES,) * 2,
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_NPROC": (walls.processes,) * 2,
        "RLIMIT_MEMLOCK": (0, 0),
        "RLIMIT_MSGQUEUE": (0, 0),
    }
    if sys.platform == "darwin":  # it takes no limit below what the process has mapped, which is far more than it uses
        del limits["RLIMIT_AS"]
    for name, (soft, hard) in limits.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            highest = resource.getrlimit(kind)[1]
            top = hard if highest == resource.RLIM_INFINITY else min(hard, highest)
            resource.setrlimit(kind, (min(soft, top), top))


def _own_folder(walls: Walls, number: int) -> str:
    folder = folder_of(walls, number)
    folder.mkdir(mode=0o700)
    return str(folder)


@functools.cache
def _readable() -> list[str]:
    """What Python needs to run its standard library, on any Linux: nothing of the user's."""
    home = [str(Path(sys.base_prefix, name)) for name in ("lib", "lib64")]
    found = [path for path in [*_SYSTEM, *home, *sys.path] if path and Path(path).exists()]
    return [path for path in dict.fromkeys(found) if not any(_inside(path, other) for other in found)]


def _packages() -> list[str]:
    """Folders of installed packages inside `_readable`."""
    prefixes = {Path(sys.base_prefix, "lib"), Path(sys.base_prefix, "lib64"), *map(Path, _SYSTEM)}
    found = {path for prefix in prefixes for path in prefix.glob("python3*/*-packages") if path.is_dir()}
    return sorted(str(path) for path in found if path.name in _PACKAGES)


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _reading() -> list[tuple[str, int]]:
    closed = _packages()
    return [grant for path in _readable() for grant in _grants(path, closed)]


def _grants(path: str, closed: list[str]) -> list[tuple[str, int]]:
    """Reading below a path but not in closed folders; Landlock only adds, so the way to them is granted piecewise."""
    if path in closed:
        return []
    if not any(_inside(folder, path) for folder in closed):
        return [(path, landlock.READ)]
    return [(path, landlock.READ_DIR), *(g for entry in os.scandir(path) for g in _grants(entry.path, closed))]


def _open_to_all(path: str) -> bool:
    return all(parent.stat().st_mode & 1 for parent in Path(path).parents)
