"""Namespaces, mounts and capabilities of Linux, through libc and nothing else.

    ordinary user:  user namespace with one line,   1000 -> the user; all capabilities inside, none outside
    root:           user namespace with two lines,     0 -> root (builds the room), 1000 -> a private uid (candidates)

The new root is an empty tmpfs with the standard library and the system's shared libraries bound into it, read-only. Old
root is detached, so no path leads to it. /proc and /sys are not mounted at all.

Source: namespaces(7), user_namespaces(7), pivot_root(2), mount_setattr(2) (Linux 5.12), capabilities(7).
Not covered: cgroups, which an ordinary user cannot count on; kernel bugs.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import struct
from pathlib import Path

NEWNS, NEWIPC, NEWUTS, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x4000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 262144
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 1, 4, 8, 38
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY_NOSUID_NODEV = 1 | 2 | 4
_CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_READ_SEARCH = 2
INSIDE_UID = 1000

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """Call a function of libc that answers -1 and sets errno when it fails.

    Raises:
        OSError: It failed; the message names the function.
    """
    result = int(getattr(_libc(), name)(*arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def syscall(number: int, *arguments: object) -> int:
    """A system call that libc has no function for.

    Raises:
        OSError: It failed.
    """
    return call("syscall", ctypes.c_long(number), *arguments)


def die_with_parent() -> None:
    """Be killed when the process that forked this one ends. To be asked again after each change of uid."""
    call("prctl", _PR_SET_PDEATHSIG, 9, 0, 0, 0)


def no_new_privileges() -> None:
    """No program started from here gains a right by its file's bits. Landlock and seccomp ask for it."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def keep_only(capability: int | None) -> None:
    """Give up every capability but one, for good: `no_new_privileges` comes first."""
    keep = 1 << capability if capability is not None else 0
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    call("capset", header, struct.pack("<6I", keep, keep, 0, 0, 0, 0))


def become(uid: int, *, keep_capabilities: bool = False) -> None:
    """Change real, effective and saved uid and gid, with no other groups."""
    call("prctl", _PR_SET_KEEPCAPS, int(keep_capabilities), 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def enter_namespaces(private_uid: int | None) -> None:
    """Leave the user, mount, network, ipc, uts and pid namespaces of this machine for new, empty ones.

    A helper stays behind to write the maps, for which root needs the rights it has outside.

    Args:
        private_uid: The uid outside that candidates run as; None for an ordinary user, who can map only itself.
    """
    uid, gid, mine = os.geteuid(), os.getegid(), os.getpid()
    told, tell = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(tell)
        refused = 1
        try:
            if os.read(told, 1):
                _write_maps(mine, uid, gid, private_uid)
                refused = 0
        finally:
            os._exit(refused)
    try:
        if private_uid is not None:
            os.setgroups([])
        call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)
        call("unshare", NEWUSER | NEWNS | NEWNET | NEWIPC | NEWUTS | NEWPID)
        os.write(tell, b"1")
    finally:
        os.close(tell)
        os.close(told)
        status = os.waitpid(helper, 0)[1]
    if status:
        raise OSError(errno.EPERM, "uid_map: the map of the user namespace was refused")


def _write_maps(pid: int, uid: int, gid: int, private_uid: int | None) -> None:
    process = Path(f"/proc/{pid}")
    if private_uid is None:
        process.joinpath("setgroups").write_text("deny")
        maps = {"uid_map": f"{INSIDE_UID} {uid} 1", "gid_map": f"{INSIDE_UID} {gid} 1"}
    else:
        rows = "0 {0} 1\n" + f"{INSIDE_UID} {private_uid} 1"
        maps = {"uid_map": rows.format(uid), "gid_map": rows.format(gid)}
    for name, text in maps.items():
        # One write(2): the kernel takes the whole map at once.
        process.joinpath(name).write_text(text)


def mount_tmpfs(where: str, *, mib: int, files: int, uid: int | None = None, private: bool = True) -> None:
    """Mount an empty tmpfs of at most `mib` MiB and `files` files; nothing in it can be executed."""
    owner = f",uid={uid},gid={uid}" if uid is not None else ""
    options = f"size={mib}m,nr_inodes={files},mode={'700' if private else '755'}{owner}"
    call("mount", b"tmpfs", where.encode(), b"tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options.encode())


def _bind(source: str, target: str) -> None:
    call("mount", source.encode(), target.encode(), None, MS_BIND | MS_REC, None)
    attributes = struct.pack("<4Q", _MOUNT_ATTR_RDONLY_NOSUID_NODEV, 0, 0, 0)
    path = ctypes.c_char_p(target.encode())
    syscall(_MOUNT_SETATTR, _AT_FDCWD, path, _AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes)))


def build_root(readable: list[str], hidden: list[str], devices: list[str]) -> None:
    """Make a root that holds `readable` and an empty /tmp, and go there; the old one is gone afterwards.

    The room is built on top of /proc, which every Linux has and nobody inside needs.

    Args:
        readable: Folders and files to bind read-only, under the same names.
        hidden: Folders below them that shall look empty.
        devices: Device files to bind; they can be written.
    """
    room = "/proc"
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    mount_tmpfs(room, mib=1, files=512, private=False)
    for path in readable:
        _place(path, room)
    for path in hidden:
        mount_tmpfs(room + path, mib=1, files=1, private=False)
    for path in devices:
        Path(room + path).parent.mkdir(parents=True, exist_ok=True)
        Path(room + path).touch()
        call("mount", path.encode(), (room + path).encode(), None, MS_BIND, None)
    Path(room, "tmp").mkdir()
    os.chdir(room)
    syscall(_PIVOT_ROOT[platform.machine()], b".", b".")
    call("umount2", b".", _MNT_DETACH)
    os.chdir("/")
    call("mount", None, b"/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, None)


def _place(path: str, room: str) -> None:
    """Bind a path into the room; a link at its end is repeated as a link when it is relative."""
    target = Path(room + path)
    target.parent.mkdir(parents=True, exist_ok=True)
    source = Path(path)
    if source.is_symlink() and not source.readlink().is_absolute():
        target.symlink_to(source.readlink())
        return
    if source.is_dir():
        target.mkdir(exist_ok=True)
    elif not target.exists():
        target.touch()
    _bind(str(source.resolve()), str(target))
