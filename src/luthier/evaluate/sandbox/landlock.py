"""Landlock: which files a process may open from now on, in the kernel, without any right to ask for it.

    handled = everything that this kernel can refuse; granted = reading below some paths, more below one folder

    ABI 1 files · 2 moving between folders · 3 truncation · 4 TCP · 5 ioctl of devices · 6 signals and abstract sockets

Source: landlock(7); Linux Documentation/userspace-api/landlock.rst.
Not covered: what Landlock does not see, and seccomp refuses instead: UDP, chmod, chown, utime, xattrs.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct

from .linux import syscall

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_O_PATH = 0o10000000

WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_DIR, MAKE_REG, MAKE_SYM, REFER, TRUNCATE = 1 << 7, 1 << 8, 1 << 12, 1 << 13, 1 << 14
READ = READ_FILE | READ_DIR
_OF_FILES = 1 | WRITE_FILE | READ_FILE | TRUNCATE | 1 << 15
_RIGHTS_OF_ABI = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many of the rights to files an ABI knows, from bit 0; 16 from ABI 5 on."""


def version() -> int:
    """The Landlock ABI of this kernel; 0 where it is missing or turned off."""
    try:
        return syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)
    except OSError:
        return 0


def restrict(abi: int, grants: list[tuple[str, int]]) -> None:
    """Refuse this thread, and all it starts, every file that is not granted; TCP; signals to processes outside.

    Args:
        abi: From `version`, at least 1.
        grants: Paths with the rights below them; what does not exist is passed over.

    Raises:
        OSError: The kernel refuses. `no_new_privileges` must come first.
    """
    files = (1 << _RIGHTS_OF_ABI.get(abi, 16)) - 1
    fields = (files, 0b11, 0b11)[: 1 if abi < 4 else 2 if abi < 6 else 3]
    attributes = struct.pack(f"<{len(fields)}Q", *fields)
    ruleset = syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        for path, rights in grants:
            _grant(ruleset, path, rights & files)
        syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _grant(ruleset: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, _O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _OF_FILES
        syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("<Qi", rights, parent), 0)
    finally:
        os.close(parent)
